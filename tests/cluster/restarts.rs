//! The target goes while it is held: its container restarts, its pod or its node is deleted.

use std::time::{Duration, Instant};

use gameday::api::{ExperimentPhase, Verdict};

use crate::held::{answer, answer_ms, game_day, holding, holding_on, injections, nothing_is_left, show};
use crate::lab::{Lab, PATIENCE, eventually, kubectl, kubectl_apply, runtime, signal};

const DELAY: &str = "{network: {delay: 100ms}}";

/// A game day that stands a restart itself.
fn patient(address: &str, fault: &str, hold: &str, again: bool) -> String {
    let patient = game_day(address, fault, hold).replace("breachAfter: 3", "breachAfter: 30");
    let patient = patient.replace("recovery: 10s", "recovery: 60s");
    if again { patient.replace("    hold:", "    onRestart: Reinject\n    hold:") } else { patient }
}

#[test]
fn a_restarted_container_ends_the_fault_and_the_run_says_so() {
    runtime().block_on(async {
        let target = holding("restart-lose", DELAY, "60s").await;
        let start = Instant::now();
        signal(target.pid, "-9");
        let injections = injections(&target.lab.client);
        eventually("the order is over", Duration::from_secs(2), async || {
            let found = injections.list(&Default::default()).await.ok()?;
            let of = found.into_iter().filter(|order| order.spec.run.namespace == target.lab.namespace);
            of.into_iter().all(|order| order.status.is_some_and(|status| status.phase.is_over())).then_some(())
        })
        .await;
        println!("container killed: order over after {:?}", start.elapsed());
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        show("container killed", &status);
        assert_eq!(status.verdict, Some(Verdict::Inconclusive), "{status:#?}");
        assert!(status.why.as_deref().unwrap().contains("the target is gone"), "{:?}", status.why);
        nothing_is_left(&target).await;
    });
}

#[test]
fn a_restarted_container_is_held_again_where_that_was_ordered() {
    runtime().block_on(async {
        let mut lab = Lab::new("restart-reinject").await;
        let address = lab.shop("checkout", 2, &[]).await;
        let operator = lab.operator("one");
        lab.apply(&patient(&address, DELAY, "25s", true)).await;
        let target = holding_on(lab, operator, async |_, _| {}).await;
        let start = Instant::now();
        signal(target.pid, "-9");
        eventually("the new container answers, late", Duration::from_secs(20), async || {
            let asked = Instant::now();
            answer(&target.ip).await.filter(|()| asked.elapsed() > Duration::from_millis(150))
        })
        .await;
        println!("container killed: held again after {:?}", start.elapsed());
        assert!(answer_ms(&target.ip).await > 150.0);
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        show("held again", &status);
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        nothing_is_left(&target).await;
        assert!(answer_ms(&target.ip).await < 50.0);
    });
}

#[test]
fn a_paused_container_that_its_liveness_probe_kills_is_lost_or_paused_again_as_ordered() {
    runtime().block_on(async {
        for (name, again) in [("pause-lose", false), ("pause-again", true)] {
            let mut lab = Lab::new(name).await;
            let address = lab.shop("checkout", 2, &[]).await;
            let liveness = r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"shop","livenessProbe":{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":1,"timeoutSeconds":1,"failureThreshold":2}}]}}}}"#;
            kubectl(&["-n", &lab.namespace, "patch", "deployment", "checkout", "-p", liveness]);
            kubectl(&["-n", &lab.namespace, "rollout", "status", "deployment/checkout", "--timeout=60s"]);
            let operator = lab.operator("one");
            lab.apply(&patient(&address, "{pause: {}}", "20s", again)).await;
            let target = holding_on(lab, operator, async |_, _| {}).await;
            let status = target.lab.until_finished(&target.run).await.status.unwrap();
            show(name, &status);
            let bite = status.experiments[0].targets[0].bite.as_ref().map(|proof| proof.what.clone()).unwrap_or_default();
            let why = status.why.clone().unwrap_or_default();
            if again {
                assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
            } else {
                assert_eq!(status.verdict, Some(Verdict::Inconclusive), "{status:#?}");
                assert!(why.contains("the target is gone"), "{why}");
            }
            println!("{name}: {bite}");
            let pods = kubectl(&["-n", &target.lab.namespace, "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"]);
            println!("{name}: restarts {pods}");
            assert!(pods.split_whitespace().any(|count| count != "0"), "the liveness probe has killed it: {pods}");
            nothing_is_left(&target).await;
        }
    });
}

#[test]
fn a_deleted_pod_ends_the_fault_whatever_is_ordered_for_restarts() {
    runtime().block_on(async {
        for (name, again) in [("deleted-lose", false), ("deleted-again", true)] {
            let mut lab = Lab::new(name).await;
            let address = lab.shop("checkout", 2, &[]).await;
            let operator = lab.operator("one");
            lab.apply(&patient(&address, DELAY, "60s", again)).await;
            let target = holding_on(lab, operator, async |_, _| {}).await;
            let status = target.lab.runs().get(&target.run).await.unwrap().status.unwrap();
            let start = Instant::now();
            let pod = &status.experiments[0].targets[0].name;
            kubectl(&["-n", &target.lab.namespace, "delete", "pod", pod, "--force", "--grace-period=0"]);
            let runs = target.lab.runs();
            eventually("the fault is over", Duration::from_secs(10), async || {
                let status = runs.get(&target.run).await.ok()?.status?;
                (status.experiments[0].phase >= ExperimentPhase::Recovering).then_some(())
            })
            .await;
            println!("{name}: over after {:?}", start.elapsed());
            let status = target.lab.until_finished(&target.run).await.status.unwrap();
            show(name, &status);
            assert_ne!(status.verdict, Some(Verdict::Passed), "{status:#?}");
            nothing_is_left(&target).await;
        }
    });
}

#[test]
fn a_deleted_node_ends_the_fault_in_bounded_time() {
    runtime().block_on(async {
        // Longer than Kubernetes takes to collect the pods of a node that is gone: a minute at most.
        let target = holding("deleted-node", DELAY, "110s").await;
        let saved = kubectl(&["get", "node", &target.node, "-o", "json"]);
        let start = Instant::now();
        kubectl(&["delete", "node", &target.node]);
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        println!("node deleted: run finished after {:?}", start.elapsed());
        show("node deleted", &status);
        // The kubelet goes on with the same name as soon as it has a node again.
        let mut node: serde_json::Value = serde_json::from_str(&saved).unwrap();
        let labels = node["metadata"]["labels"].take();
        let restored =
            serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": target.node, "labels": labels}});
        kubectl_apply(&restored.to_string());
        kubectl(&["wait", "--for=condition=Ready", &format!("node/{}", target.node), "--timeout=60s"]);
        assert_ne!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        eventually("no holder is left", PATIENCE, async || crate::held::holders().is_empty().then_some(())).await;
    });
}
