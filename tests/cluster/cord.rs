use std::time::{Duration, Instant};

use gameday::api::{ExperimentPhase, RunPhase, Verdict};

use crate::crash::HOLD;
use crate::lab::{Lab, PATIENCE, eventually, gameday, kubectl, kubectl_apply, never, runtime, text};

const CORD: &str = r#"
apiVersion: gameday.dev/v1alpha1
kind: Cord
metadata: {name: pager}
spec: {reason: the pager went off, by: on-call}
"#;

#[test]
fn a_cord_of_a_namespace_stops_only_that() {
    runtime().block_on(async {
        let mut here = Lab::new("cord-here").await;
        let address = here.shop("checkout", 2, &[]).await;
        here.shop("payments", 2, &[]).await;
        let there = Lab::new("cord-there").await;
        let other = there.shop("checkout", 2, &[]).await;
        there.shop("payments", 2, &[]).await;
        here.operator("one");
        // A node can be closed by one of them only.
        let one_fault = |lab: &Lab, address: &str| {
            let (game_day, _) = HOLD.split_once("  - name: close-a-node").expect("two experiments");
            game_day.replace("ADDRESS", address).replace("hold: 8s", "hold: 15s").replace("NAMESPACE", &lab.namespace)
        };
        here.apply(&one_fault(&here, &address)).await;
        there.apply(&one_fault(&there, &other)).await;
        let (run, going_on) = (here.run_of("hold").await, there.run_of("hold").await);
        here.until_phase(&run, ExperimentPhase::Holding).await;
        there.until_phase(&going_on, ExperimentPhase::Holding).await;
        kubectl_apply(&format!(
            "{{apiVersion: gameday.dev/v1alpha1, kind: Cord, metadata: {{name: here}}, \
             spec: {{reason: only here, by: on-call, namespaces: [{}]}}}}",
            here.namespace
        ));
        let stopped = here.until_finished(&run).await.status.unwrap();
        let why = stopped.why.unwrap();
        assert!(why.contains("the cord here is pulled by on-call: only here"), "{why}");
        let passed = there.until_finished(&going_on).await.status.unwrap();
        kubectl(&["delete", "cords.gameday.dev", "--all"]);
        assert_eq!(passed.verdict, Some(Verdict::Passed), "{passed:#?}");
    });
}

#[test]
fn a_cord_reverts_everything_within_a_second_and_holds_new_runs_until_it_is_released() {
    runtime().block_on(async {
        let mut lab = Lab::new("cord").await;
        let address = lab.shop("checkout", 3, &[]).await;
        lab.shop("payments", 2, &[]).await;
        lab.operator("one");
        lab.apply(&HOLD.replace("ADDRESS", &address)).await;
        let name = lab.run_of("hold").await;
        let runs = lab.runs();
        eventually("both faults are in force", PATIENCE, async || {
            let status = runs.get(&name).await.ok()?.status?;
            status.experiments.iter().all(|experiment| experiment.phase == ExperimentPhase::Holding).then_some(())
        })
        .await;
        assert_eq!((lab.replicas("payments").await, lab.cordoned().await.len()), (1, 1));

        kubectl_apply(CORD);
        let pulled = Instant::now();
        let (deployments, nodes) = (lab.deployments(), lab.nodes());
        eventually("payments and the node are back", Duration::from_secs(3), async || {
            let replicas = deployments.get("payments").await.ok()?.spec?.replicas?;
            let cordoned = nodes.list(&Default::default()).await.ok()?;
            let cordoned = cordoned.iter().any(|node| node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false));
            (replicas == 2 && !cordoned).then_some(())
        })
        .await;
        let took = pulled.elapsed();
        assert!(took <= Duration::from_secs(1), "cord to everything back: {took:?}");
        let status = lab.until_finished(&name).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("the pager went off"), "{:?}", status.why);

        // A new run waits, says why, and goes on when the cord is released.
        lab.apply(&crate::passes::LOSE_A_POD.replace("ADDRESS", &address)).await;
        let waiting = lab.run_of("checkout").await;
        let before = lab.uids("checkout").await;
        eventually("the new run says why it waits", PATIENCE, async || {
            runs.get(&waiting).await.ok()?.status?.why.filter(|why| why.contains("the pager went off"))
        })
        .await;
        never("a run started under a cord", Duration::from_secs(4), async || {
            runs.get(&waiting).await.is_ok_and(|run| run.status.is_some_and(|status| status.phase != RunPhase::Waiting))
        })
        .await;
        assert_eq!(lab.uids("checkout").await, before);
        let released = gameday(&["release"]);
        assert_eq!(released.status.code(), Some(0), "{}", text(&released));
        let status = lab.until_finished(&waiting).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        assert_eq!(kubectl(&["get", "cords.gameday.dev", "-o", "name"]), "");
    });
}
