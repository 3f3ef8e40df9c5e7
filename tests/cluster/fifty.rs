//! Fifty targets on three nodes, let go at once.

use std::time::{Duration, Instant};

use gameday::api::{ExperimentPhase, Verdict};

use crate::held::holders;
use crate::kinds::sweep_networks;
use crate::lab::{Lab, PATIENCE, eventually, kubectl, kubectl_apply, runtime};

const GAME_DAY: &str = r#"
apiVersion: gameday.dev/v1alpha1
kind: GameDay
metadata: {name: fifty, namespace: NAMESPACE}
spec:
  hypothesis: Nobody misses fifty pods.
  serviceAccountName: breaker
  steadyState:
  - name: canary
    workload: {kind: Deployment, name: canary}
    every: 1s
    timeout: 500ms
    expect: {ready: {count: 1}}
    breachAfter: 1
  blastRadius: {targets: 50, percent: 100, hold: 5m}
  baseline: 1s
  recovery: 5s
  experiments:
  - name: cut
    targets: {pods: {matchLabels: {app: checkout}}, choose: {count: 50}}
    fault: {network: {partition: true}}
    hold: 4m
"#;

#[test]
fn fifty_targets_on_three_nodes_are_let_go_by_a_cord_and_by_a_breach() {
    runtime().block_on(async {
        let mut lab = Lab::new("fifty").await;
        lab.shop("checkout", 50, &[]).await;
        lab.operator("one");
        for by in ["cord", "breach"] {
            lab.shop("canary", 1, &[]).await;
            lab.apply(GAME_DAY).await;
            let run = lab.run_of("fifty").await;
            eventually("fifty are held", PATIENCE, async || (holders().len() >= 50).then_some(())).await;
            let begun = Instant::now();
            if by == "cord" {
                kubectl_apply("{apiVersion: gameday.dev/v1alpha1, kind: Cord, metadata: {name: fifty}, spec: {reason: enough}}");
            } else {
                // Not deleted: another could be ready before the probe asks again.
                kubectl(&["-n", &lab.namespace, "scale", "deployment", "canary", "--replicas=0"]);
            }
            eventually("all are let go", Duration::from_secs(10), async || holders().is_empty().then_some(())).await;
            println!("{by}: fifty let go after {:?}", begun.elapsed());
            let status = lab.until_finished(&run).await.status.unwrap();
            println!("{by}: {:?}, {:?}; abort took {:?}", status.verdict, status.why, status.experiments[0].time_to_abort);
            let cut = &status.experiments[0];
            assert_eq!(cut.phase, ExperimentPhase::Judged);
            assert_eq!(cut.targets.len(), 50);
            assert!(cut.targets.iter().all(|target| target.clean.is_some()), "{cut:#?}");
            assert_ne!(status.verdict, Some(Verdict::Passed));
            sweep_networks(&lab).await;
            if by == "cord" {
                kubectl(&["delete", "cords.gameday.dev", "fifty"]);
            }
            kubectl(&["-n", &lab.namespace, "delete", "gameday", "fifty"]);
        }
    });
}
