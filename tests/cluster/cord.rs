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
