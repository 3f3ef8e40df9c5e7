use std::time::{Duration, Instant};

use gameday::api::Verdict;
use jiff::SignedDuration;

use crate::lab::{Lab, PATIENCE, eventually, gameday, runtime, text};

const LOSE_ALL: &str = r#"
apiVersion: gameday.dev/v1alpha1
kind: GameDay
metadata: {name: outage, namespace: NAMESPACE}
spec:
  hypothesis: Checkout answers without a single pod.
  serviceAccountName: breaker
  seed: 7
  steadyState:
  - name: checkout
    http: {url: "http://ADDRESS/healthz"}
    every: 1s
    timeout: 500ms
    breachAfter: 3
  blastRadius: {targets: 3, percent: 100, hold: 2m}
  baseline: 3s
  recovery: 30s
  experiments:
  - name: no-pods
    targets: {workload: {kind: Deployment, name: checkout}}
    fault: {scale: {replicas: 0}}
    hold: 1m
"#;

#[test]
fn losing_the_last_ready_replica_is_a_breach_that_reverts_at_once_and_fails() {
    runtime().block_on(async {
        let mut lab = Lab::new("abort").await;
        let address = lab.shop("checkout", 3, &[]).await;
        lab.operator("one");
        let file = std::env::temp_dir().join(format!("gameday-abort-{}.yaml", std::process::id()));
        std::fs::write(&file, LOSE_ALL.replace("ADDRESS", &address).replace("NAMESPACE", &lab.namespace)).unwrap();
        let run = gameday(&["run", file.to_str().unwrap()]);
        assert_eq!(run.status.code(), Some(1), "a broken hypothesis is exit code 1:\n{}", text(&run));

        let name = lab.run_of("outage").await;
        let status = lab.run(&name).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Failed), "{status:#?}");
        let experiment = &status.experiments[0];
        // The issue's bound: every × breachAfter + timeout + 1 s, from the first bad sample to the last revert order.
        let bound = SignedDuration::from_millis(3 * 1_000 + 500 + 1_000);
        let took = experiment.reverted.unwrap().duration_since(experiment.first_bad.unwrap());
        assert!(took <= bound, "{took:?} is more than {bound:?}");
        assert!(experiment.time_to_abort.is_some() && experiment.time_to_recover.is_some(), "{experiment:#?}");
        assert_eq!(lab.replicas("checkout").await, 3, "set back");
        assert_eq!(lab.held().await, Vec::<String>::new());
        assert!(text(&run).contains("Failed"), "{}", text(&run));
    });
}

#[test]
fn a_baseline_that_is_not_met_touches_nothing() {
    runtime().block_on(async {
        let mut lab = Lab::new("baseline").await;
        // Pods are ready; what the probe asks for is not there.
        let address = lab.shop("checkout", 2, &[]).await;
        lab.operator("one");
        let before = lab.uids("checkout").await;
        let wants_204 = LOSE_ALL.replace("breachAfter: 3", "breachAfter: 3\n    expect: {status: [204]}");
        lab.apply(&wants_204.replace("ADDRESS", &address)).await;
        let name = lab.run_of("outage").await;
        let run = lab.until_finished(&name).await;
        let status = run.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("the steady state is not met before the fault"), "{:?}", status.why);
        assert!(status.experiments[0].targets.is_empty());
        assert_eq!(lab.uids("checkout").await, before);
        assert_eq!(lab.replicas("checkout").await, 2);
    });
}

#[test]
fn ctrl_c_stops_the_run_and_waits_until_everything_is_back() {
    runtime().block_on(async {
        let mut lab = Lab::new("ctrlc").await;
        let address = lab.shop("checkout", 2, &[]).await;
        lab.shop("payments", 2, &[]).await;
        lab.operator("one");
        let yaml = LOSE_ALL
            .replace("ADDRESS", &address)
            .replace("NAMESPACE", &lab.namespace)
            .replace("name: checkout}\n    fault", "name: payments}\n    fault");
        let file = std::env::temp_dir().join(format!("gameday-ctrlc-{}.yaml", std::process::id()));
        std::fs::write(&file, yaml).unwrap();
        let child = std::process::Command::new(env!("CARGO_BIN_EXE_gameday"))
            .args(["run", file.to_str().unwrap()])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let deployments = lab.deployments();
        eventually("payments is scaled to nothing", PATIENCE, async || {
            (deployments.get("payments").await.ok()?.spec?.replicas == Some(0)).then_some(())
        })
        .await;
        let start = Instant::now();
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        eventually("payments is back", Duration::from_secs(5), async || {
            (deployments.get("payments").await.ok()?.spec?.replicas == Some(2)).then_some(())
        })
        .await;
        eprintln!("Ctrl-C to set back: {:?}", start.elapsed());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3), "cut short is inconclusive:\n{}", text(&output));
    });
}
