//! Alerts that guardrails name, asked each second while a run is unfinished.

use std::sync::Arc;
use std::time::Duration as Time;

use crate::api::Duration;
use crate::engine::guardrail::AlertShown;
use crate::probe::alert;

use super::desk::Desk;

/// Asked this often: an alert that begins to fire ends what is held within two seconds.
const EVERY: Time = Time::from_secs(1);
/// An answer that takes longer is none; the last one counts for ten seconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks, for ever. What is not answered is not told: an answer that is too old counts as an alert that may fire.
pub async fn tend(desk: &Arc<Desk>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !desk.has_unfinished() {
            continue;
        }
        let asking = desk.guardrails.alerts().into_iter().map(|(guardrail, prometheus, query)| async move {
            let at = desk.clock.now();
            let firing = alert::firing(&prometheus, &query.query, TIMEOUT).await;
            ((guardrail, query.name), firing.map(|firing| AlertShown { at, firing }))
        });
        let mut answers = Vec::new();
        for (which, answer) in futures::future::join_all(asking).await {
            match answer {
                Ok(shown) => answers.push((which, shown)),
                Err(error) => tracing::warn!(guardrail = which.0, alert = which.1, error, "an alert's query was not answered"),
            }
        }
        if !answers.is_empty() {
            desk.guardrails.answered(answers);
        }
    }
}
