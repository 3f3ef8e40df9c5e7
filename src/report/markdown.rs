use crate::api::GameDayRun;

use super::{PROBE_COLUMNS, again, experiments, fault, figures, name, since, targets, times, verdict};

/// The report for a wiki, an issue or a post-mortem.
pub fn markdown(run: &GameDayRun) -> String {
    let status = run.status.clone().unwrap_or_default();
    let (judged, why) = verdict(&status);
    let mut lines = vec![
        format!("# {}: {judged}", escape(&name(run))),
        String::new(),
        format!("> {}", escape(&run.spec.game_day.hypothesis)),
        String::new(),
        format!("**{judged}**: {}.", escape(why.trim_end_matches('.'))),
        String::new(),
    ];
    if let (Some(started), Some(finished)) = (status.started, status.finished) {
        let length = finished.duration_since(started).as_secs_f64();
        lines.push(format!("From {started:.0}, for {length:.1} s; game day `{}`.", run.spec.game_day_name));
        lines.push(String::new());
    }
    lines.push("## Experiments".to_owned());
    lines.push(String::new());
    for (written, done) in experiments(run, &status) {
        let judged = done.verdict.map_or_else(|| done.phase.to_string(), |verdict| verdict.to_string());
        lines.push(format!("### {}: {judged}", escape(&done.name)));
        lines.push(String::new());
        if let Some(why) = &done.why {
            lines.push(format!("- Why: {}", escape(why)));
        }
        lines.push(format!("- Fault: {}, held {}", escape(&fault(&written.fault)), written.hold));
        lines.push(format!("- Targets: {}", escape(&targets(&written.targets))));
        let times = times(written, done);
        if !times.is_empty() {
            lines.push(format!("- Times: {}", times.join(", ")));
        }
        lines.push(String::new());
        let rows = done.targets.iter().map(|target| {
            let proof = |proof: &Option<crate::api::Proof>| match proof {
                Some(proof) => format!("{} {}", since(run, proof.at), proof.what),
                None => "no proof".to_owned(),
            };
            vec![
                format!("{}/{}", target.kind, target.name),
                target.node.clone().unwrap_or_else(|| "-".to_owned()),
                proof(&target.bite),
                proof(&target.clean),
                target.problem.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        });
        lines.extend(table(&["Target", "Node", "Bite", "Clean", "Problem"], rows));
    }
    lines.push("## Steady state".to_owned());
    lines.push(String::new());
    lines.extend(table(&PROBE_COLUMNS.map(title), status.probes.iter().map(|probe| figures(probe).to_vec())));
    lines.push("## Record".to_owned());
    lines.push(String::new());
    if status.record_omitted > 0 {
        lines.push(format!("{} entries in the middle are left out.", status.record_omitted));
        lines.push(String::new());
    }
    let rows = status.record.iter().map(|entry| {
        let about: Vec<&str> = [entry.experiment.as_deref(), entry.target.as_deref()].into_iter().flatten().collect();
        vec![since(run, entry.at), format!("{:?}", entry.kind), about.join(" "), entry.text.clone()]
    });
    lines.extend(table(&["Time", "Kind", "About", "What"], rows));
    lines.push("## Again".to_owned());
    lines.push(String::new());
    lines.extend(again(run, &status).into_iter().map(|line| format!("- {}", escape(&line))));
    lines.join("\n") + "\n"
}

/// `SAMPLES` → `Samples`.
fn title(word: &'static str) -> &'static str {
    match word {
        "PROBE" => "Probe",
        "SAMPLES" => "Samples",
        "BAD" => "Bad",
        "BLIND" => "Blind",
        "WORST" => "Worst",
        "MARGIN" => "Margin",
        other => other,
    }
}

/// A table and an empty line; nothing where there are no rows.
fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let rows: Vec<String> =
        rows.map(|row| format!("| {} |", row.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join(" | "))).collect();
    if rows.is_empty() {
        return vec!["Nothing.".to_owned(), String::new()];
    }
    let header = [format!("| {} |", columns.join(" | ")), format!("|{}", "---|".repeat(columns.len()))];
    header.into_iter().chain(rows).chain([String::new()]).collect()
}

/// What Markdown would take for its own: what was seen comes from outside, and must not become a link or markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' => escaped.extend(['\\', letter]),
            '\n' | '\r' => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}
