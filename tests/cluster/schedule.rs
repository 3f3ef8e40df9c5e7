use std::collections::BTreeSet;
use std::time::Duration;

use kube::api::ListParams;

use crate::lab::{Lab, eventually, runtime};
use crate::passes::LOSE_A_POD;

#[test]
fn a_schedule_of_every_minute_runs_once_a_minute_over_an_operator_restart_too() {
    runtime().block_on(async {
        let mut lab = Lab::new("schedule").await;
        let address = lab.shop("checkout", 3, &[]).await;
        let first = lab.operator("one");
        let game_day = LOSE_A_POD
            .replace("  hypothesis:", "  schedule: {cron: \"* * * * *\", timeZone: Europe/Berlin}\n  hypothesis:")
            .replace("hold: 5s", "hold: 2s");
        lab.apply(&game_day.replace("ADDRESS", &address)).await;
        let runs = lab.runs();
        let minutes = async || -> Option<Vec<jiff::Timestamp>> {
            let found = runs.list(&ListParams::default()).await.ok()?;
            let mut minutes: Vec<_> = found.into_iter().filter_map(|run| run.spec.scheduled_for).collect();
            minutes.sort();
            Some(minutes)
        };
        let wait = Duration::from_secs(75);
        eventually("the first minute has run", wait, async || (minutes().await?.len() == 1).then_some(())).await;
        lab.kill(first);
        lab.operator("two");
        eventually("the second minute has run", wait, async || (minutes().await?.len() == 2).then_some(())).await;
        eventually("the third minute has run", wait, async || (minutes().await?.len() == 3).then_some(())).await;
        let minutes = minutes().await.unwrap();
        let distinct: BTreeSet<_> = minutes.iter().collect();
        assert_eq!(distinct.len(), 3);
        let apart: Vec<f64> = minutes.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64()).collect();
        assert_eq!(apart, [60.0, 60.0], "one a minute: {minutes:?}");
        let status = lab.game_days().get("checkout").await.unwrap().status.unwrap();
        assert_eq!(status.missed, 0, "{status:#?}");
    });
}
