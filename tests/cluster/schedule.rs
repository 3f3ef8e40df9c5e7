use std::collections::BTreeSet;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::ListParams;

use crate::lab::{Lab, eventually, kubectl, kubectl_apply, runtime};
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

#[test]
fn a_start_that_is_due_replaces_the_run_under_way() {
    runtime().block_on(async {
        let mut lab = Lab::new("replace").await;
        let address = lab.shop("checkout", 3, &[]).await;
        lab.operator("one");
        let game_day = LOSE_A_POD
            .replace("  hypothesis:", "  schedule: {cron: \"* * * * *\", ifRunning: Replace}\n  hypothesis:")
            .replace("hold: 1m", "hold: 10m")
            .replace("hold: 5s", "hold: 10m");
        lab.apply(&game_day.replace("ADDRESS", &address)).await;
        let runs = lab.runs();
        let found = eventually("the second minute has begun", Duration::from_secs(150), async || {
            let mut found = runs.list(&ListParams::default()).await.ok()?.items;
            found.sort_by_key(|run| run.spec.scheduled_for);
            (found.len() >= 2 && found[0].is_finished()).then_some(found)
        })
        .await;
        let apart = found[1].spec.scheduled_for.unwrap().duration_since(found[0].spec.scheduled_for.unwrap());
        assert_eq!(apart.as_secs(), 60);
        let first = found[0].status.clone().unwrap();
        assert!(first.why.as_deref().unwrap_or_default().contains("ifRunning is Replace"), "{first:#?}");
        let begun = found[1].status.as_ref().and_then(|status| status.started);
        let ended = first.finished.unwrap();
        assert!(begun.is_none_or(|begun| begun >= ended), "one at a time: {begun:?}, {ended}");
        let status = lab.game_days().get("checkout").await.unwrap().status.unwrap();
        assert_eq!(status.missed, 0, "{status:#?}");
    });
}

#[test]
fn a_start_that_the_api_server_refuses_is_said_and_comes_once_it_is_allowed() {
    runtime().block_on(async {
        let mut lab = Lab::new("quota").await;
        let address = lab.shop("checkout", 3, &[]).await;
        kubectl_apply(&QUOTA.replace("NAMESPACE", &lab.namespace));
        lab.operator("one");
        lab.apply(&LOSE_A_POD.replace("ADDRESS", &address).replace("hold: 5s", "hold: 1s")).await;
        let game_days = lab.game_days();
        let refused = async || {
            let conditions = game_days.get("checkout").await.ok()?.status?.conditions;
            Some(conditions.into_iter().find(|condition| condition.kind == "StartRefused"))
        };
        let said = eventually("the refusal is said", Duration::from_secs(20), async || refused().await?).await;
        assert!(said.message.contains("exceeded quota"), "{said:?}");
        kubectl(&["-n", &lab.namespace, "delete", "resourcequota", "none"]);
        let run = eventually("the run is started", Duration::from_secs(60), async || {
            lab.runs().list(&ListParams::default()).await.ok()?.items.pop()
        })
        .await;
        eventually("nothing is refused any more", Duration::from_secs(5), async || refused().await?.is_none().then_some(()))
            .await;
        lab.until_finished(&run.name_any()).await;
    });
}

const QUOTA: &str = r#"
apiVersion: v1
kind: ResourceQuota
metadata: {name: none, namespace: NAMESPACE}
spec: {hard: {count/gamedayruns.gameday.dev: "0"}}
"#;
