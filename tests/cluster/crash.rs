use std::time::Duration;

use gameday::api::{ExperimentPhase, RunPhase, TargetStatus};

use crate::lab::{Lab, PATIENCE, eventually, runtime};

/// Two faults in force at once, both of which must be undone.
pub const HOLD: &str = r#"
apiVersion: gameday.dev/v1alpha1
kind: GameDay
metadata: {name: hold, namespace: NAMESPACE}
spec:
  hypothesis: Checkout answers with half of payments and one node closed.
  serviceAccountName: breaker
  seed: 7
  steadyState:
  - name: checkout
    http: {url: "http://ADDRESS/healthz"}
    every: 500ms
    timeout: 500ms
    breachAfter: 3
  blastRadius: {targets: 3, percent: 50, hold: 2m}
  baseline: 3s
  recovery: 10s
  experiments:
  - name: half-of-payments
    targets: {workload: {kind: Deployment, name: payments}}
    fault: {scale: {replicas: 1}}
    hold: 8s
    after: []
  - name: close-a-node
    targets: {nodes: {matchExpressions: [{key: kubernetes.io/hostname, operator: Exists}]}, choose: {count: 1}}
    fault: {cordon: {}}
    hold: 8s
    after: []
"#;

async fn killed_in(phase: ExperimentPhase, name: &str) {
    let mut lab = Lab::new(name).await;
    let address = lab.shop("checkout", 2, &[]).await;
    lab.shop("payments", 2, &[]).await;
    let first = lab.operator("one");
    lab.apply(&HOLD.replace("ADDRESS", &address)).await;
    let run = lab.run_of("hold").await;
    let runs = lab.runs();
    let seen = eventually(&format!("{phase} is reached"), PATIENCE, async || {
        let status = runs.get(&run).await.ok()?.status?;
        status.experiments.iter().any(|experiment| experiment.phase >= phase).then_some(status)
    })
    .await;
    lab.kill(first);
    // What was recorded when the operator died, or just before.
    let recorded: Vec<TargetStatus> =
        lab.run(&run).await.status.unwrap_or(seen).experiments.into_iter().flat_map(|one| one.targets).collect();

    lab.operator("two");
    let status = lab.until_finished(&run).await.status.unwrap();
    assert_eq!(lab.replicas("payments").await, 2, "payments is what it was: {status:#?}");
    assert_eq!(lab.cordoned().await, Vec::<String>::new(), "no node is closed: {status:#?}");
    assert_eq!(lab.held().await, Vec::<String>::new(), "nothing is held");
    let uids = |targets: &[TargetStatus]| targets.iter().map(|target| target.uid.clone()).collect::<Vec<_>>();
    for experiment in &status.experiments {
        assert!(experiment.targets.len() <= 1, "one victim set, not two: {experiment:#?}");
        assert!(experiment.targets.iter().all(|target| target.clean.is_some()), "{experiment:#?}");
    }
    let all: Vec<TargetStatus> = status.experiments.iter().flat_map(|experiment| experiment.targets.clone()).collect();
    assert!(uids(&recorded).iter().all(|uid| uids(&all).contains(uid)), "what was recorded stays recorded");
}

#[test]
fn an_operator_killed_in_baseline() {
    runtime().block_on(killed_in(ExperimentPhase::Baseline, "crash-baseline"));
}

#[test]
fn an_operator_killed_while_injecting() {
    runtime().block_on(killed_in(ExperimentPhase::Injecting, "crash-injecting"));
}

#[test]
fn an_operator_killed_while_holding() {
    runtime().block_on(killed_in(ExperimentPhase::Holding, "crash-holding"));
}

#[test]
fn an_operator_killed_while_reverting() {
    runtime().block_on(killed_in(ExperimentPhase::Reverting, "crash-reverting"));
}

#[test]
fn an_operator_killed_while_recovering() {
    runtime().block_on(killed_in(ExperimentPhase::Recovering, "crash-recovering"));
}

#[test]
fn a_run_deleted_while_no_operator_lives_is_swept_by_the_next() {
    runtime().block_on(async {
        let mut lab = Lab::new("orphans").await;
        let address = lab.shop("checkout", 2, &[]).await;
        lab.shop("payments", 2, &[]).await;
        let first = lab.operator("one");
        lab.apply(&HOLD.replace("ADDRESS", &address).replace("hold: 8s", "hold: 60s")).await;
        let run = lab.run_of("hold").await;
        let runs = lab.runs();
        eventually("both faults are in force", PATIENCE, async || {
            let status = runs.get(&run).await.ok()?.status?;
            status.experiments.iter().all(|experiment| experiment.phase == ExperimentPhase::Holding).then_some(())
        })
        .await;
        lab.kill(first);
        runs.delete(&run, &Default::default()).await.unwrap();
        eventually("the run is gone although no operator lives", Duration::from_secs(2), async || {
            runs.get_opt(&run).await.ok()?.is_none().then_some(())
        })
        .await;
        assert_eq!(lab.held().await.len(), 2, "both are still held: nobody was there to let go");
        lab.operator("two");
        let deployments = lab.deployments();
        eventually("payments is swept", PATIENCE, async || {
            (deployments.get("payments").await.ok()?.spec?.replicas == Some(2)).then_some(())
        })
        .await;
        eventually("nothing is held", PATIENCE, async || lab.held().await.is_empty().then_some(())).await;
        assert_eq!(lab.cordoned().await, Vec::<String>::new());
    });
}

#[test]
fn an_operator_that_is_asked_to_stop_hands_over_and_the_run_goes_on() {
    runtime().block_on(async {
        let mut lab = Lab::new("handover").await;
        let address = lab.shop("checkout", 2, &[]).await;
        lab.shop("payments", 2, &[]).await;
        let first = lab.operator("one");
        lab.operator("two");
        lab.apply(&HOLD.replace("ADDRESS", &address).replace("hold: 8s", "hold: 15s")).await;
        let run = lab.run_of("hold").await;
        let leader = eventually("somebody leads", PATIENCE, async || crate::leaders::holder(&lab.client).await).await;
        let leader = if leader == "one" { first } else { first + 1 };
        lab.until_phase(&run, ExperimentPhase::Holding).await;
        lab.signal(leader, "-TERM");
        let status = lab.until_finished(&run).await.status.unwrap();
        assert_eq!(lab.ended(leader), Some(0), "a graceful stop");
        assert_eq!(status.phase, RunPhase::Finished);
        assert_eq!(status.verdict, Some(gameday::api::Verdict::Passed), "{status:#?}");
        assert_eq!(lab.replicas("payments").await, 2);
    });
}
