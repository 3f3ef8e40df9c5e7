//! A run, told to people and to programs: what was tried, what happened, how that is known, and how to try it
//! again. It judges nothing, blames nobody, and shows only what the run's record holds.

mod json;
mod markdown;
mod text;

use jiff::Timestamp;

use crate::api::{
    Duration, Experiment, ExperimentStatus, Fault, FaultKind, GameDayRun, GameDayRunStatus, ProbeStatus, Targets, Verdict,
};

pub use json::{Report, json};
pub use markdown::markdown;
pub use text::{entry, entry_at, text, text_after_record};

/// `shop/checkout-x7k2p`.
pub fn name(run: &GameDayRun) -> String {
    let name = run.metadata.name.as_deref().unwrap_or("?");
    match &run.metadata.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// The verdict, or that there is none yet, with the reason.
fn verdict(status: &GameDayRunStatus) -> (String, &str) {
    let verdict = status.verdict.map_or_else(|| "no verdict yet".to_owned(), |verdict| verdict.to_string());
    (verdict, status.why.as_deref().unwrap_or("it is not finished"))
}

/// Each experiment as written, with what came of it. Before the run starts there is nothing to show.
fn experiments<'a>(run: &'a GameDayRun, status: &'a GameDayRunStatus) -> Vec<(&'a Experiment, &'a ExperimentStatus)> {
    let written = &run.spec.game_day.experiments;
    status.experiments.iter().filter_map(|done| Some((written.iter().find(|one| one.name == done.name)?, done))).collect()
}

/// `podKill, grace period 0s, every 10s`.
pub fn fault(fault: &Fault) -> String {
    let Fault { pod_kill, pod_evict, scale, cordon, .. } = fault;
    let mut parts = Vec::new();
    if let Some(kill) = pod_kill {
        parts.push("podKill".to_owned());
        parts.extend(kill.grace_period.map(|length| format!("grace period {length}")));
        parts.extend(kill.every.map(|length| format!("every {length}")));
    }
    if let Some(evict) = pod_evict {
        parts.push("podEvict".to_owned());
        parts.extend(evict.every.map(|length| format!("every {length}")));
    }
    if let Some(scale) = scale {
        let to = match (scale.replicas, scale.percent) {
            (Some(replicas), _) => replicas.to_string(),
            (None, Some(percent)) => percent.to_string(),
            (None, None) => "?".to_owned(),
        };
        parts.push(format!("scale to {to}"));
    }
    if cordon.is_some() {
        parts.push("cordon".to_owned());
    }
    if parts.is_empty() {
        parts.extend(held(fault));
    }
    parts.join(", ")
}

/// `network, delay 200ms, jitter 20ms`: a fault that a node holds, in the words that it was written with.
fn held(fault: &Fault) -> Vec<String> {
    let written = serde_json::to_value(fault).unwrap_or_default();
    let Some((name, words)) = written.as_object().and_then(|object| object.iter().next()) else { return Vec::new() };
    let words = words.as_object().into_iter().flatten().map(|(word, value)| match value {
        serde_json::Value::String(text) => format!("{word} {text}"),
        serde_json::Value::Bool(true) => word.clone(),
        value => format!("{word} {value}"),
    });
    std::iter::once(name.clone()).chain(words).collect()
}

/// `1 of the pods with app=checkout`.
pub fn targets(targets: &Targets) -> String {
    let Targets { pods, nodes, workload, choose, container: _ } = targets;
    if let Some(workload) = workload {
        return workload.to_string();
    }
    let how_many = match choose {
        Some(choose) => match (choose.count, choose.percent) {
            (Some(count), _) => count.to_string(),
            (None, Some(percent)) => percent.to_string(),
            (None, None) => "?".to_owned(),
        },
        None => "1".to_owned(),
    };
    match (pods, nodes) {
        (Some(pods), _) => format!("{how_many} of the pods with {pods}"),
        (None, Some(nodes)) => format!("{how_many} of the nodes with {nodes}"),
        (None, None) => how_many,
    }
}

/// Time since the run began, as `+12.3s`.
pub fn since(run: &GameDayRun, at: Timestamp) -> String {
    let begin = run.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let begin = begin.or(run.status.as_ref().and_then(|status| status.started)).unwrap_or(at);
    format!("+{:.1}s", at.duration_since(begin).as_secs_f64())
}

/// In force, detect, abort, recover: those that were measured.
fn times(written: &Experiment, status: &ExperimentStatus) -> Vec<String> {
    let times = [
        ("in force for", in_force(written, status)),
        ("detected in", status.time_to_detect),
        ("aborted in", status.time_to_abort),
        ("recovered in", status.time_to_recover),
    ];
    times.into_iter().filter_map(|(what, length)| Some(format!("{what} {}", length?))).collect()
}

/// From when the last target was seen to be hit until the end was ordered. A hold counts from the order, so this is
/// what of it is proven: not where the fault may have ended before, nor of one that is over as soon as it is done.
fn in_force(written: &Experiment, status: &ExperimentStatus) -> Option<Duration> {
    let is_proven = matches!(status.verdict, Some(Verdict::Passed | Verdict::Failed));
    if !is_proven || !written.fault.kinds().into_iter().all(FaultKind::lasts) {
        return None;
    }
    let bites: Option<Vec<Timestamp>> = status.targets.iter().map(|target| Some(target.bite.as_ref()?.at)).collect();
    let (last, reverted) = (bites?.into_iter().max()?, status.reverted?);
    (last < reverted).then(|| Duration::between(last, reverted))
}

/// A probe's figures, in the order of [`PROBE_COLUMNS`].
fn figures(probe: &ProbeStatus) -> [String; 8] {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), milliseconds);
    [
        probe.name.clone(),
        probe.samples.to_string(),
        probe.bad.to_string(),
        probe.blind.to_string(),
        ms(probe.p50_ms),
        ms(probe.p99_ms),
        ms(probe.worst_ms),
        probe.margin.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

const PROBE_COLUMNS: [&str; 8] = ["PROBE", "SAMPLES", "BAD", "BLIND", "P50", "P99", "WORST", "MARGIN"];

/// Three figures are what a person compares.
pub fn milliseconds(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2} ms"),
        value if value < 100.0 => format!("{value:.1} ms"),
        value => format!("{value:.0} ms"),
    }
}

/// What makes the same run again.
fn again(run: &GameDayRun, status: &GameDayRunStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let name = &run.spec.game_day_name;
    lines.push(match run.spec.game_day.seed {
        Some(seed) => {
            format!("with spec.seed: {seed}, {name} chooses the same victims wherever the candidates have the same names")
        }
        None => format!("{name} named no seed, so 0 was used"),
    });
    for experiment in status.experiments.iter().filter(|experiment| !experiment.targets.is_empty()) {
        let victims: Vec<String> =
            experiment.targets.iter().map(|target| format!("{}/{} ({})", target.kind, target.name, target.uid)).collect();
        lines.push(format!("{} chose {}", experiment.name, victims.join(", ")));
    }
    lines
}

/// Lines of cells, each column as wide as its widest cell.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
