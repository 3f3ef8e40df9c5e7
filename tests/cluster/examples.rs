//! The examples of faults that nodes hold, as they are in `examples/`, run against the shop that is there too. Only the
//! waiting is shorter.

use gameday::api::{GameDayRun, Verdict};
use kube::api::{Api, ListParams};

use crate::held::holders;
use crate::lab::{Lab, eventually, kubectl, kubectl_apply, runtime};

const EXAMPLES: [&str; 7] = ["pressure", "full-disk", "slow-files", "frozen-pod", "lossy-link", "cut-off", "out-of-processes"];

fn read(name: &str) -> String {
    std::fs::read_to_string(format!("{}/examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"))).expect("the example is there")
}

/// The same game day, with a customer's patience but not an operator's.
fn hurried(name: &str, example: &str) -> String {
    // It bites once a request comes through the one pod of three that is cut off: not one of twelve does in a run of a
    // hundred.
    let hold = if name == "cut-off" { "20s" } else { "6s" };
    let mut lines: Vec<String> = Vec::new();
    for line in example.lines() {
        let is_hold = line.starts_with("    hold: ");
        lines.push(if is_hold { format!("    hold: {hold}") } else { line.to_owned() });
        if line == "spec:" {
            lines.push("  baseline: 2s".to_owned());
        }
    }
    lines.join("\n")
}

#[test]
fn every_example_of_a_fault_on_a_node_bites_passes_and_is_gone() {
    runtime().block_on(async {
        let mut lab = Lab::new("examples").await;
        kubectl(&["delete", "namespace", "shop", "--ignore-not-found"]);
        kubectl_apply(&read("shop"));
        lab.operator("one");
        for deployment in ["checkout", "payments"] {
            kubectl(&["-n", "shop", "rollout", "status", &format!("deployment/{deployment}"), "--timeout=60s"]);
        }
        // The names of the examples' probes are known within the cluster only.
        let address = |service: &str| {
            let address = kubectl(&["-n", "shop", "get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]);
            (format!("http://{service}.shop.svc/"), format!("http://{address}/"))
        };
        let addresses = ["checkout", "payments"].map(address);
        let runs: Api<GameDayRun> = Api::namespaced(lab.client.clone(), "shop");
        for name in EXAMPLES {
            let mut example = hurried(name, &read(name));
            for (known, address) in &addresses {
                example = example.replace(known, address);
            }
            kubectl_apply(&example);
            let run = eventually(&format!("{name} is over"), std::time::Duration::from_secs(150), async || {
                let found = runs.list(&ListParams::default()).await.ok()?;
                found.into_iter().find(|run| run.spec.game_day_name == name && run.is_finished())
            })
            .await;
            let status = run.status.expect("a status");
            println!("{name}: {:?}", status.verdict);
            for experiment in &status.experiments {
                println!("  {}: {:?} {:?}", experiment.name, experiment.verdict, experiment.why);
                for target in &experiment.targets {
                    println!("    bite {:?}", target.bite.as_ref().map(|proof| &proof.what));
                    assert!(target.bite.is_some(), "{name}: {status:#?}");
                    assert!(target.clean.is_some(), "{name}: {status:#?}");
                }
            }
            assert_eq!(status.verdict, Some(Verdict::Passed), "{name}: {status:#?}");
            kubectl(&["-n", "shop", "delete", "gameday", name]);
            assert_eq!(holders(), Vec::<i32>::new());
        }
        kubectl(&["delete", "namespace", "shop", "--wait=false"]);
    });
}
