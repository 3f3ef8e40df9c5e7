//! When: opening hours and freezes, rollouts, nodes, autoscalers, alerts. None of it is refused for ever: it is
//! waited for, and while a fault is held it ends it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::api::{Duration, Whose};

use super::Named;
use super::answer::{Answer, Says};
use super::hours::{Clock, Hours, words};
use super::picture::{AlertShown, WorkloadKey};
use super::reach::Scene;

/// An answer to an alert's query counts so long. Alerts are asked each second: ten lost in a row are no news,
/// and then nobody knows.
pub const ALERT_FRESH: Duration = Duration::from_secs(10);

pub fn moment(guardrail: &Named, scene: &Scene, namespace: &str, now: Timestamp) -> Vec<Answer> {
    let rule = &guardrail.spec.moment;
    let mut answers: Vec<Answer> = clock(guardrail, now).into_iter().collect();
    if let Some(whose) = rule.rollout {
        answers.push(rollout(guardrail, scene, namespace, whose));
    }
    if rule.node_not_ready {
        answers.push(nodes(guardrail, scene));
    }
    if let Some(whose) = rule.autoscaler_at_maximum {
        answers.push(autoscalers(guardrail, scene, namespace, whose));
    }
    answers.extend(alerts(guardrail, scene, now));
    answers
}

fn answer(guardrail: &Named, rule: &'static str, against: Option<String>, fine: String, way_out: &str) -> Answer {
    let (says, sum, way_out) = match against {
        None => (Says::Allow, fine, String::new()),
        Some(why) => (Says::Wait, why, way_out.to_owned()),
    };
    Answer { guardrail: guardrail.name.clone(), rule, subject: String::new(), sum, way_out, says }
}

fn clock(guardrail: &Named, now: Timestamp) -> Option<Answer> {
    let rule = &guardrail.spec.moment;
    if rule.open.is_empty() && rule.freezes.is_empty() {
        return None;
    }
    let hours = match Hours::of(rule) {
        Ok(hours) => hours,
        // Said by the check of the guardrail, too; in doubt it is closed.
        Err(why) => return Some(answer(guardrail, "moment.timeZone", Some(why), String::new(), "let the platform team mend it")),
    };
    let way_out = |hours: &Hours| match hours.next_opening(now) {
        Some(at) => format!("wait: it opens {}", at.to_zoned(hours.zone.clone()).strftime("%a %Y-%m-%d %H:%M %Z")),
        None => "let the platform team open it: it does not open within a year".to_owned(),
    };
    Some(match hours.at(now) {
        Clock::Open => answer(guardrail, "moment.open", None, "open".to_owned(), ""),
        Clock::Closed => {
            let open: Vec<String> = rule.open.iter().map(words).collect();
            let zone = rule.time_zone.as_deref().unwrap_or("UTC");
            let sum = format!("closed: the opening hours are {} ({zone})", open.join("; "));
            answer(guardrail, "moment.open", Some(sum), String::new(), &way_out(&hours))
        }
        Clock::Frozen(index) => {
            let freeze = &rule.freezes[index];
            let sum = format!("frozen {}: {}", words(&freeze.when), freeze.reason);
            answer(guardrail, "moment.freezes", Some(sum), String::new(), &way_out(&hours))
        }
    })
}

/// Whether a workload is among those that are looked at.
fn is_looked_at<'a>(
    guardrail: &'a Named,
    scene: &'a Scene,
    namespace: &'a str,
    whose: Whose,
) -> impl Fn(&WorkloadKey) -> bool + use<'a> {
    let targets: BTreeSet<WorkloadKey> = scene.workloads().into_iter().cloned().collect();
    move |key| match whose {
        Whose::Targets => targets.contains(key),
        Whose::Namespace => key.namespace == namespace,
        Whose::Covered => guardrail.covers(&key.namespace, scene.index.picture),
    }
}

fn rollout(guardrail: &Named, scene: &Scene, namespace: &str, whose: Whose) -> Answer {
    let looked_at = is_looked_at(guardrail, scene, namespace, whose);
    let mut rolling = scene.index.picture.workloads.iter().filter(|(key, _)| looked_at(key));
    let found = rolling.find_map(|(key, workload)| Some(format!("{key} rolls out: {}", workload.rolling.as_ref()?)));
    answer(guardrail, "moment.rollout", found, "no rollout".to_owned(), "wait until it is rolled out")
}

fn nodes(guardrail: &Named, scene: &Scene) -> Answer {
    let ours = |name: &str| scene.all.nodes.contains(name);
    let down = scene.index.picture.nodes.iter().find(|node| !node.ready && !ours(&node.name));
    let found = down.map(|node| format!("the node {} is not ready", node.name));
    answer(guardrail, "moment.nodeNotReady", found, "all nodes are ready".to_owned(), "wait until it is ready or removed")
}

fn autoscalers(guardrail: &Named, scene: &Scene, namespace: &str, whose: Whose) -> Answer {
    let looked_at = is_looked_at(guardrail, scene, namespace, whose);
    let mut there = scene.index.picture.autoscalers.iter().filter(|scaler| looked_at(&scaler.workload));
    let at_maximum = there.find(|scaler| scaler.current >= scaler.max);
    let found = at_maximum
        .map(|scaler| format!("the autoscaler {}/{} is at its maximum, {} replicas", scaler.namespace, scaler.name, scaler.max));
    let way_out = "wait until it has room, or raise its maximum";
    answer(guardrail, "moment.autoscalerAtMaximum", found, "all autoscalers have room".to_owned(), way_out)
}

fn alerts(guardrail: &Named, scene: &Scene, now: Timestamp) -> Vec<Answer> {
    let Some(rule) = &guardrail.spec.moment.alerts else { return Vec::new() };
    let ask = |name: &String| {
        let key = (guardrail.name.clone(), name.clone());
        let old = |at: Timestamp| now.duration_since(at) > ALERT_FRESH.as_signed();
        let (against, way_out) = match scene.index.picture.alerts.get(&key) {
            None => (Some(format!("{name}: no answer yet from {}", rule.prometheus)), "wait for an answer"),
            Some(AlertShown { at, firing: _ }) if old(*at) => {
                let why = format!("{name}: no answer from {} since {at:.0}", rule.prometheus);
                (Some(why), "let somebody see to Prometheus: without it nobody knows")
            }
            Some(AlertShown { at: _, firing: Some(what) }) => (Some(format!("{name} fires: {what}")), "wait until it is over"),
            Some(AlertShown { at: _, firing: None }) => (None, ""),
        };
        answer(guardrail, "moment.alerts", against, format!("{name} does not fire"), way_out)
    };
    rule.queries.iter().map(|query| ask(&query.name)).collect()
}
