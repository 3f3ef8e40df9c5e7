//! Whether a guardrail can be obeyed as written. What the schema's rules say, said with the same words for
//! files, and what they cannot say: time zones.

use std::collections::BTreeSet;

use crate::api::{Cap, GuardrailSpec, Window, limits, says};
use crate::engine::problem::Problems;
use crate::engine::schedule;

/// # Errors
/// Every problem, in the order of the fields.
pub fn check(spec: &GuardrailSpec) -> Result<(), Problems> {
    let mut problems = Problems::default();
    if !(1..=limits::RUNS).contains(&spec.runs) {
        problems.add("spec.runs", format!("at least 1 and at most {}", limits::RUNS));
    }
    let reach = &spec.reach;
    let caps = [
        ("workload", &reach.workload),
        ("namespace", &reach.namespace),
        ("node", &reach.node),
        ("zone", &reach.zone),
        ("nodes", &reach.nodes),
    ];
    for (field, cap) in caps {
        if let Some(cap) = cap {
            check_cap(&format!("spec.reach.{field}"), cap, &mut problems);
        }
    }
    if let Some(ready) = &reach.ready_left
        && ready.count.is_some() == ready.percent.is_some()
    {
        problems.add("spec.reach.readyLeft", says::ONE_READY);
    }
    check_moment(spec, &mut problems);
    for (index, rule) in spec.faults.values.iter().enumerate() {
        let path = format!("spec.faults.values[{index}]");
        if !is_field(&rule.field) {
            problems.add(format!("{path}.field"), says::VALUE_FIELD);
        }
        if rule.min.is_none() && rule.max.is_none() {
            problems.add(path, says::VALUE_BOUND);
        }
    }
    if let Some(approval) = &spec.approval
        && !(1..=16).contains(&approval.people)
    {
        problems.add("spec.approval.people", "at least 1 and at most 16");
    }
    if let Some(promotion) = &spec.promotion {
        if promotion.stages.is_empty() || promotion.stages.len() > limits::STAGES as usize {
            problems.add("spec.promotion.stages", format!("at least 1 and at most {}", limits::STAGES));
        }
        for (index, stage) in promotion.stages.iter().enumerate() {
            check_cap(&format!("spec.promotion.stages[{index}]"), stage, &mut problems);
        }
        if !(1..=365).contains(&promotion.days) {
            problems.add("spec.promotion.days", "at least 1 and at most 365");
        }
    }
    if problems.0.is_empty() { Ok(()) } else { Err(problems) }
}

fn check_cap(path: &str, cap: &Cap, problems: &mut Problems) {
    if cap.targets.is_none() && cap.percent.is_none() {
        problems.add(path, says::CAP);
    }
    if cap.targets.is_some_and(|targets| !(0..=limits::TARGETS).contains(&targets)) {
        problems.add(format!("{path}.targets"), format!("at least 0 and at most {}", limits::TARGETS));
    }
}

fn check_moment(spec: &GuardrailSpec, problems: &mut Problems) {
    let moment = &spec.moment;
    let zone = |path: String, name: Option<&String>, problems: &mut Problems| {
        if let Some(Err(why)) = name.map(|name| schedule::parse_zone(name)) {
            problems.add(path, why);
        }
    };
    zone("spec.moment.timeZone".to_owned(), moment.time_zone.as_ref(), problems);
    for (index, window) in moment.open.iter().enumerate() {
        check_window(&format!("spec.moment.open[{index}]"), window, problems);
    }
    for (index, freeze) in moment.freezes.iter().enumerate() {
        let path = format!("spec.moment.freezes[{index}]");
        let Window { days, from, to: _, first_date, last_date } = &freeze.when;
        if days.is_empty() && from.is_none() && first_date.is_none() && last_date.is_none() {
            problems.add(&path, says::FREEZE_ALWAYS);
        }
        check_window(&format!("{path}.when"), &freeze.when, problems);
        zone(format!("{path}.timeZone"), freeze.time_zone.as_ref(), problems);
    }
    if let Some(alerts) = &moment.alerts {
        let uri: Option<http::Uri> = alerts.prometheus.parse().ok();
        let fits = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !fits {
            problems.add("spec.moment.alerts.prometheus", says::PROMETHEUS);
        }
        let mut names = BTreeSet::new();
        for (index, query) in alerts.queries.iter().enumerate() {
            if !names.insert(&query.name) {
                problems.add(format!("spec.moment.alerts.queries[{index}].name"), format!("{:?} is a name already", query.name));
            }
        }
    }
}

fn check_window(path: &str, window: &Window, problems: &mut Problems) {
    if window.from.is_some() != window.to.is_some() {
        problems.add(path, says::FROM_AND_TO);
    }
    if window.from.is_some() && window.from == window.to {
        problems.add(path, says::FROM_IS_TO);
    }
    if let (Some(first), Some(last)) = (window.first_date, window.last_date)
        && last < first
    {
        problems.add(path, says::LAST_BEFORE_FIRST);
    }
}

/// Letters with dots between them, each part beginning small, at least two.
fn is_field(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_lowercase()) && part.chars().all(|letter| letter.is_ascii_alphabetic())
    };
    text.contains('.') && text.split('.').all(part)
}
