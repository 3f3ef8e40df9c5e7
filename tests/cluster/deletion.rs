use std::time::{Duration, Instant};

use gameday::api::ExperimentPhase;
use kube::api::{Api, DeleteParams};

use crate::crash::HOLD;
use crate::lab::{Lab, PATIENCE, eventually, runtime};

/// Everything ends so soon after a deletion.
const BOUND: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum Delete {
    Run,
    GameDay,
    Namespace,
}

async fn deleted_in(phase: ExperimentPhase, what: Delete, name: &str) {
    let mut lab = Lab::new(name).await;
    let address = lab.shop("checkout", 2, &[]).await;
    lab.shop("payments", 2, &[]).await;
    lab.operator("one");
    lab.apply(&HOLD.replace("ADDRESS", &address).replace("hold: 8s", "hold: 60s")).await;
    let run = lab.run_of("hold").await;
    let runs = lab.runs();
    eventually(&format!("{phase} is reached"), PATIENCE, async || {
        let status = runs.get(&run).await.ok()?.status?;
        status.experiments.iter().any(|experiment| experiment.phase >= phase).then_some(())
    })
    .await;

    let start = Instant::now();
    let params = DeleteParams::default();
    match what {
        Delete::Run => drop(runs.delete(&run, &params).await.unwrap()),
        Delete::GameDay => drop(lab.game_days().delete("hold", &params).await.unwrap()),
        Delete::Namespace => {
            let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(lab.client.clone());
            drop(namespaces.delete(&lab.namespace, &params).await.unwrap());
        }
    }
    eventually(&format!("{what:?} deleted in {phase}: the run is gone"), BOUND, async || {
        runs.get_opt(&run).await.ok()?.is_none().then_some(())
    })
    .await;
    let gone = start.elapsed();
    let deployments = lab.deployments();
    eventually(&format!("{what:?} deleted in {phase}: everything is reverted"), BOUND, async || {
        let payments = deployments.get_opt("payments").await.ok()?;
        let replicas = payments.is_none_or(|found| {
            found.spec.and_then(|spec| spec.replicas) == Some(2) || found.metadata.deletion_timestamp.is_some()
        });
        (replicas && lab.cordoned().await.is_empty()).then_some(())
    })
    .await;
    assert!(start.elapsed() <= BOUND, "{what:?} in {phase}: {:?}", start.elapsed());
    eprintln!("{what:?} deleted in {phase}: run gone after {gone:?}, all reverted after {:?}", start.elapsed());
    eventually("nothing is held any more", PATIENCE, async || lab.held().await.is_empty().then_some(())).await;
}

#[test]
fn a_run_deleted_in_any_phase() {
    runtime().block_on(async {
        deleted_in(ExperimentPhase::Baseline, Delete::Run, "delete-run-baseline").await;
        deleted_in(ExperimentPhase::Injecting, Delete::Run, "delete-run-injecting").await;
        deleted_in(ExperimentPhase::Holding, Delete::Run, "delete-run-holding").await;
    });
}

#[test]
fn a_game_day_deleted_in_any_phase() {
    runtime().block_on(async {
        deleted_in(ExperimentPhase::Baseline, Delete::GameDay, "delete-gd-baseline").await;
        deleted_in(ExperimentPhase::Holding, Delete::GameDay, "delete-gd-holding").await;
    });
}

#[test]
fn a_namespace_deleted_in_any_phase() {
    runtime().block_on(async {
        deleted_in(ExperimentPhase::Baseline, Delete::Namespace, "delete-ns-baseline").await;
        deleted_in(ExperimentPhase::Holding, Delete::Namespace, "delete-ns-holding").await;
    });
}
