use crate::api::{Entry, ExperimentStatus, GameDayRun, TargetStatus};

use super::{PROBE_COLUMNS, again, experiments, fault, figures, name, since, table, targets, times, verdict};

/// The report for a terminal or a log.
pub fn text(run: &GameDayRun) -> String {
    write(run, true)
}

/// The same where the record has just been read, line by line.
pub fn text_after_record(run: &GameDayRun) -> String {
    write(run, false)
}

fn write(run: &GameDayRun, with_record: bool) -> String {
    let status = run.status.clone().unwrap_or_default();
    let spec = &run.spec.game_day;
    let (judged, why) = verdict(&status);
    let mut lines = vec![
        format!("{} · game day {}", name(run), run.spec.game_day_name),
        format!("hypothesis  {}", spec.hypothesis),
        format!("verdict     {judged}: {why}"),
    ];
    if let (Some(started), Some(finished)) = (status.started, status.finished) {
        let length = finished.duration_since(started).as_secs_f64();
        lines.push(format!("time        {started:.0}, {length:.1} s"));
    }
    for (number, (written, done)) in experiments(run, &status).into_iter().enumerate() {
        let judged = done.verdict.map_or_else(|| done.phase.to_string(), |verdict| verdict.to_string());
        lines.push(String::new());
        lines.push(format!("{}. {}: {judged}", number + 1, done.name));
        if let Some(why) = &done.why {
            lines.push(format!("   why      {why}"));
        }
        lines.push(format!("   fault    {}, held {}", fault(&written.fault), written.hold));
        lines.push(format!("   targets  {}{}", targets(&written.targets), candidates(done)));
        for target in &done.targets {
            lines.extend(evidence(run, target));
        }
        let times = times(written, done);
        if !times.is_empty() {
            lines.push(format!("   times    {}", times.join(", ")));
        }
    }
    if !status.probes.is_empty() {
        let header = vec![PROBE_COLUMNS.map(str::to_owned).to_vec()];
        let rows: Vec<Vec<String>> =
            header.into_iter().chain(status.probes.iter().map(|probe| figures(probe).to_vec())).collect();
        lines.push(String::new());
        lines.extend(table(&rows));
    }
    if with_record && !status.record.is_empty() {
        lines.push(String::new());
        lines.push("RECORD".to_owned());
        let half = status.record.len() / 2;
        for (index, entry) in status.record.iter().enumerate() {
            if status.record_omitted > 0 && index == half {
                lines.push(format!("  … {} entries left out", status.record_omitted));
            }
            lines.push(format!("  {}", self::entry(run, entry)));
        }
    }
    lines.push(String::new());
    lines.push("AGAIN".to_owned());
    lines.extend(again(run, &status).into_iter().map(|line| format!("  {line}")));
    lines.join("\n") + "\n"
}

/// One line of the record: when, about what, and what.
pub fn entry(run: &GameDayRun, entry: &Entry) -> String {
    entry_at(&since(run, entry.at), entry)
}

/// The same with a time of the caller's.
pub fn entry_at(at: &str, entry: &Entry) -> String {
    let about: Vec<&str> = [entry.experiment.as_deref(), entry.target.as_deref()].into_iter().flatten().collect();
    let about = if about.is_empty() { String::new() } else { format!("{}: ", about.join(" ")) };
    format!("{at:>8}  {:<8}  {about}{}", format!("{:?}", entry.kind), entry.text)
}

fn candidates(done: &ExperimentStatus) -> String {
    match done.candidates {
        None => String::new(),
        Some(1) => "; 1 candidate".to_owned(),
        Some(candidates) => format!("; {candidates} candidates"),
    }
}

fn evidence(run: &GameDayRun, target: &TargetStatus) -> Vec<String> {
    let node = target.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let mut lines = vec![format!("     {}/{}{node}", target.kind, target.name)];
    for (what, proof) in [("bite ", &target.bite), ("clean", &target.clean)] {
        lines.push(match proof {
            Some(proof) => format!("       {what}  {}  {}", since(run, proof.at), proof.what),
            None => format!("       {what}  no proof"),
        });
    }
    lines.extend(target.problem.as_ref().map(|problem| format!("       problem {problem}")));
    lines
}
