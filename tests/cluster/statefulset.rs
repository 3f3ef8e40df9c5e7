use gameday::api::{ExperimentPhase, Verdict};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::Api;

use crate::lab::{Lab, PATIENCE, eventually, kubectl_apply, runtime};

const LEDGER: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ledger, namespace: NAMESPACE}
spec:
  replicas: 2
  serviceName: ledger
  selector: {matchLabels: {app: ledger}}
  template:
    metadata: {labels: {app: ledger}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: shop
        image: lab.test/shop:1
        imagePullPolicy: Never
---
apiVersion: gameday.dev/v1alpha1
kind: GameDay
metadata: {name: ledger, namespace: NAMESPACE}
spec:
  hypothesis: One of two ledgers is enough.
  serviceAccountName: breaker
  steadyState:
  - name: ledger
    workload: {kind: StatefulSet, name: ledger}
    expect: {ready: {count: 1}}
    every: 500ms
  blastRadius: {targets: 1, percent: 50, hold: 1m}
  baseline: 1s
  recovery: 30s
  experiments:
  - name: half-of-it
    targets: {workload: {kind: StatefulSet, name: ledger}}
    fault: {scale: {replicas: 1}}
    hold: 5s
"#;

#[test]
fn a_stateful_set_is_scaled_and_set_back() {
    runtime().block_on(async {
        let mut lab = Lab::new("ledger").await;
        let (set, game_day) = LEDGER.split_once("---").unwrap();
        kubectl_apply(&set.replace("NAMESPACE", &lab.namespace));
        let sets: Api<StatefulSet> = Api::namespaced(lab.client.clone(), &lab.namespace);
        let ready = async |count: i32| {
            eventually(&format!("{count} ledgers are ready"), PATIENCE, async || {
                (sets.get("ledger").await.ok()?.status?.ready_replicas.unwrap_or(0) == count).then_some(())
            })
            .await;
        };
        ready(2).await;
        lab.operator("one");
        lab.apply(game_day).await;
        let run = lab.run_of("ledger").await;
        lab.until_phase(&run, ExperimentPhase::Holding).await;
        let set = sets.get("ledger").await.unwrap();
        assert_eq!(set.spec.unwrap().replicas, Some(1));
        let status = lab.until_finished(&run).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        ready(2).await;
        let set = sets.get("ledger").await.unwrap();
        assert!(set.metadata.labels.unwrap_or_default().keys().all(|label| !label.starts_with("gameday.dev/")));
    });
}
