//! A scenario is a file: a game day, the documents of its cluster, and a `Rehearsal` that says what goes wrong.
//! What comes of it is text, line by line, so that it can be read and compared.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use crate::api::{Duration, Entry, GameDay};

use super::{Event, Options, Rehearsed, rehearse};

/// A file taken apart.
#[derive(Debug)]
pub struct Scenario {
    pub gameday: GameDay,
    pub others: Vec<Value>,
}

/// Reads a scenario.
///
/// # Errors
/// In a sentence, what of it cannot be understood.
pub fn read(text: &str) -> Result<Scenario, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|problem| problem.to_string())?;
    let (gamedays, others): (Vec<Value>, Vec<Value>) = documents.into_iter().partition(|document| document["kind"] == "GameDay");
    let [gameday] = gamedays.as_slice() else { return Err(format!("one GameDay is needed, not {}", gamedays.len())) };
    let gameday = GameDay::deserialize(gameday).map_err(|problem| format!("the GameDay: {problem}"))?;
    Ok(Scenario { gameday, others })
}

/// Rehearses a scenario and writes down how it unfolds.
///
/// # Errors
/// As [`rehearse`].
pub fn unfold(scenario: &Scenario, options: &Options) -> Result<(String, Rehearsed), String> {
    let mut lines = String::new();
    let rehearsed = rehearse(&scenario.gameday, &scenario.others, options, &mut |moment| {
        let text = match moment.event {
            Event::Entry(entry) => entry_text(entry),
            Event::Misfortune(words) => format!("!! {words}"),
        };
        line(&mut lines, moment.since, &text);
    })?;
    let mut text: String = rehearsed.invented.iter().map(|sentence| format!("invented: {sentence}\n")).collect();
    text.push_str(&lines);
    if let Some(status) = &rehearsed.run.status {
        for experiment in &status.experiments {
            let verdict = experiment.verdict.map_or("not judged".to_owned(), |verdict| verdict.to_string());
            push(&mut text, &format!("{}: {verdict}: {}", experiment.name, experiment.why.as_deref().unwrap_or("-")));
        }
        let verdict = status.verdict.map_or(format!("{:?}", status.phase), |verdict| verdict.to_string());
        push(&mut text, &format!("verdict: {verdict}: {}", status.why.as_deref().unwrap_or("-")));
    }
    for violation in &rehearsed.violations {
        push(&mut text, &format!("broken: {violation}"));
    }
    Ok((text, rehearsed))
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn line(lines: &mut String, since: Duration, text: &str) {
    let seconds = since.as_millis() as f64 / 1_000.0;
    writeln!(lines, "{seconds:>8.3}  {text}").expect("a String takes every line");
}

fn entry_text(entry: &Entry) -> String {
    let Entry { at: _, kind, experiment, target, text } = entry;
    let about: Vec<&str> = [experiment.as_deref(), target.as_deref()].into_iter().flatten().collect();
    let about = if about.is_empty() { String::new() } else { format!("{}: ", about.join(" ")) };
    format!("{:<9} {about}{text}", format!("{kind:?}"))
}
