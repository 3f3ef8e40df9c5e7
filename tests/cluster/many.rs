use std::time::Duration;

use gameday::api::{GameDayRun, GameDayRunSpec, RunPhase};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};

use crate::lab::{Lab, eventually, runtime};

/// As in the operator: more wait their turn.
const AT_ONCE: usize = 32;

#[test]
fn forty_runs_at_once_take_their_turns_and_all_end() {
    runtime().block_on(async {
        let mut lab = Lab::new("many").await;
        let address = lab.shop("checkout", 3, &[]).await;
        let spec: GameDayRunSpec = serde_json::from_value(serde_json::json!({
            "gameDayName": "many",
            "gameDay": {
                "hypothesis": "Checkout answers.",
                "serviceAccountName": "breaker",
                "seed": 7,
                "steadyState": [{"name": "checkout", "http": {"url": format!("http://{address}/healthz")}, "every": "1s"}],
                "blastRadius": {"targets": 1, "percent": 50, "hold": "1m"},
                "baseline": "6s",
                "recovery": "5s",
                "experiments": [{
                    "name": "close-a-node-that-is-not-there",
                    "targets": {"nodes": {"matchLabels": {"kubernetes.io/hostname": "nowhere"}}, "choose": {"count": 1}},
                    "fault": {"cordon": {}},
                    "hold": "1s",
                }],
            },
        }))
        .unwrap();
        let runs = lab.runs();
        for number in 0..40 {
            let run = GameDayRun::new(&format!("many-{number}"), spec.clone());
            runs.create(&PostParams::default(), &run).await.unwrap();
        }
        lab.operator("one");
        let most = std::sync::atomic::AtomicUsize::new(0);
        let found = eventually("all are finished", Duration::from_secs(120), async || {
            let found = runs.list(&ListParams::default()).await.ok()?.items;
            let of = |phase| found.iter().filter(|run| run.status.as_ref().is_some_and(|status| status.phase == phase)).count();
            most.fetch_max(of(RunPhase::Running), std::sync::atomic::Ordering::Relaxed);
            (of(RunPhase::Finished) == 40).then_some(found)
        })
        .await;
        let most = most.into_inner();
        println!("{most} at once");
        assert!((2..=AT_ONCE).contains(&most), "{most} at once");
        for run in found {
            let why = run.status.as_ref().and_then(|status| status.why.clone()).unwrap_or_default();
            assert!(why.contains("nobody to choose from"), "{}: {why}", run.name_any());
        }
    });
}
