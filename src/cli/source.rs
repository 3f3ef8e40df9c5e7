//! Files of YAML: read, and everything that is wrong with them found at once, each with its line and column.
//! Objects of other kinds are kept as they are.

use std::io::Read;

use serde_json::Value as Json;

use crate::api::{GROUP, GameDay, GameDayRun};
use crate::engine::Plan;

use super::complaint::{Complaint, Complaints};
use super::document::Reading;
use super::span::{Node, Place};

/// A game day is a page or two; a file with an application beside it some hundred. Beyond this it is a mistake.
const BYTES_MAX: u64 = 4 << 20;

/// What a file held.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub game_days: Vec<(GameDay, Plan)>,
    /// Objects of other kinds, and of ours that are no game days.
    pub others: Vec<Json>,
}

/// Reads a file with game days, or standard input for `-`.
///
/// # Errors
/// Everything that is wrong with it; no game day in it is wrong too.
pub fn read(file: &str) -> Result<Contents, Complaints> {
    let (name, text) = read_text(file)?;
    with_game_day(name, text)
}

/// The same of a text that is already there.
///
/// # Errors
/// As [`read`].
pub fn with_game_day(name: &str, text: String) -> Result<Contents, Complaints> {
    let contents = parse(name, text)?;
    if contents.game_days.is_empty() {
        let message = if contents.others.is_empty() { "empty: a GameDay is wanted" } else { "no GameDay in it" };
        let mut complaints = Complaints::whole(name, message);
        let help = format!("a game day starts with apiVersion: {GROUP}/v1alpha1 and kind: GameDay");
        complaints.all.iter_mut().for_each(|complaint| complaint.help = Some(help.clone()));
        return Err(complaints);
    }
    Ok(contents)
}

/// Reads a file with anything of ours: game days, guardrails, cords.
///
/// # Errors
/// Everything that is wrong with it; nothing of ours in it is wrong too.
pub fn read_ours(file: &str) -> Result<Contents, Complaints> {
    let (name, text) = read_text(file)?;
    let contents = parse(name, text.clone())?;
    if contents.others.iter().any(is_ours) { Ok(contents) } else { with_game_day(name, text) }
}

pub fn is_ours(object: &Json) -> bool {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    version.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/'))
}

/// Reads a file of any objects; ours are checked.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_any(file: &str) -> Result<Contents, Complaints> {
    let (name, text) = read_text(file)?;
    parse(name, text)
}

/// Reads a file with runs, as kubectl writes them: one, several, or a List.
///
/// # Errors
/// Everything that is wrong with it; no run in it is wrong too.
pub fn read_runs(file: &str) -> Result<Vec<GameDayRun>, Complaints> {
    let (name, text) = read_text(file)?;
    let contents = parse(name, text)?;
    let objects = contents.others.into_iter().flat_map(|object| match object["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![object],
    });
    let runs: Result<Vec<GameDayRun>, _> =
        objects.filter(|object| object["kind"] == "GameDayRun").map(serde_json::from_value).collect();
    match runs {
        Ok(runs) if runs.is_empty() => Err(Complaints::whole(name, "no GameDayRun in it")),
        Ok(runs) => Ok(runs),
        Err(error) => Err(Complaints::whole(name, error.to_string())),
    }
}

fn read_text(file: &str) -> Result<(&str, String), Complaints> {
    let (name, bytes) = if file == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(BYTES_MAX + 1).read_to_end(&mut bytes);
        ("standard input", read.map(|_| bytes))
    } else {
        (file, read_bytes(file))
    };
    let bytes = bytes.map_err(|error| Complaints::whole(name, cause(&error)))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Complaints::whole(name, "more than 4 MiB: that is no game day"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Complaints::whole(name, format!("line {line} is not UTF-8: is it YAML at all?"))
    })?;
    Ok((name, text))
}

fn read_bytes(file: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Without the number that the C library has for it.
fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn parse(name: &str, text: String) -> Result<Contents, Complaints> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    let documents: Vec<Node> = match serde_saphyr::from_multiple_with_options(&text, options) {
        Ok(documents) => documents,
        Err(error) => {
            let place = error.location().and_then(|location| place_of_error(&text, location));
            let message = format!("not YAML: {}", without_place(&error));
            return Err(Complaints { file: name.to_owned(), text, all: vec![Complaint { place, message, help: None }] });
        }
    };
    let mut reading = Reading::default();
    for document in &documents {
        reading.document(document);
    }
    if reading.complaints.is_empty() {
        return Ok(reading.contents);
    }
    Err(Complaints { file: name.to_owned(), text, all: reading.complaints })
}

/// The parser's sentence alone: the place is ours to write.
fn without_place(error: &serde_saphyr::Error) -> String {
    let said = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let said = said.lines().next().unwrap_or_default();
    said.split(" at line ").next().unwrap_or(said).to_owned()
}

/// The parser's place; where it knows only line and column, one character there.
fn place_of_error(text: &str, location: serde_saphyr::Location) -> Option<Place> {
    if let Some(place) = Place::of(location) {
        return Some(place);
    }
    let (line, column) = (usize::try_from(location.line()).ok()?, usize::try_from(location.column()).ok()?);
    let start = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum::<usize>();
    let offset = text[start..].chars().take(column.saturating_sub(1)).map(char::len_utf8).sum::<usize>();
    Some(Place { line, column, bytes: start + offset..start + offset + 1 })
}
