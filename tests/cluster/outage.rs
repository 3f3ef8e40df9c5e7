use std::time::{Duration, Instant};

use gameday::api::{ExperimentPhase, Verdict};

use crate::crash::HOLD;
use crate::lab::{ApiServer, Lab, PATIENCE, eventually, runtime};

/// The API server is gone when the faults should end: an API fault cannot be undone then, and the run must say so.
#[test]
fn an_api_server_that_is_away_when_faults_end_delays_the_undo_and_the_run_says_so() {
    runtime().block_on(async {
        let mut lab = Lab::new("outage").await;
        let address = lab.shop("checkout", 2, &[]).await;
        lab.shop("payments", 2, &[]).await;
        let first = lab.operator("one");
        lab.apply(&HOLD.replace("ADDRESS", &address)).await;
        let run = lab.run_of("hold").await;
        lab.until_phase(&run, ExperimentPhase::Holding).await;
        let away = ApiServer::stopped();
        let start = Instant::now();
        while lab.ended(first).is_none() {
            assert!(start.elapsed() < Duration::from_secs(30), "the operator gives up its lease and ends");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(away);
        // As a pod it would be started anew.
        lab.operator("two");
        let status = lab.until_finished(&run).await.status.unwrap();
        assert_eq!(lab.replicas("payments").await, 2, "{status:#?}");
        assert_eq!(lab.cordoned().await, Vec::<String>::new());
        assert_eq!(lab.held().await, Vec::<String>::new());
        assert_eq!(status.verdict, Some(Verdict::Inconclusive), "held too long is a doubt: {status:#?}");
        assert!(status.experiments.iter().all(|one| one.targets.iter().all(|target| target.clean.is_some())), "{status:#?}");
    });
}

/// Away for a moment while faults are held: nobody loses anything by it.
#[test]
fn an_api_server_that_is_away_for_a_moment_costs_nothing() {
    runtime().block_on(async {
        let mut lab = Lab::new("moment").await;
        let address = lab.shop("checkout", 2, &[]).await;
        lab.shop("payments", 2, &[]).await;
        lab.operator("one");
        lab.apply(&HOLD.replace("ADDRESS", &address).replace("hold: 8s", "hold: 20s")).await;
        let run = lab.run_of("hold").await;
        let runs = lab.runs();
        eventually("both faults are held", PATIENCE, async || {
            let status = runs.get(&run).await.ok()?.status?;
            status.experiments.iter().all(|one| one.phase == ExperimentPhase::Holding).then_some(())
        })
        .await;
        let away = ApiServer::stopped();
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(away);
        let status = lab.until_finished(&run).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        assert_eq!((lab.replicas("payments").await, lab.held().await), (2, Vec::new()));
    });
}
