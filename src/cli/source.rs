//! Files of YAML: read, and everything that is wrong with them found at once, each with its line and column.
//! Objects of other kinds are kept as they are.

use std::io::Read;

use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::api::{Cord, GROUP, GameDay, GameDayRun, limits, says};
use crate::engine::{self, Plan};

use super::complaint::{Complaint, Complaints};
use super::schema::{self, MisfitKind};
use super::span::{Node, Place, Value};

/// A game day is a page or two; a file with an application beside it some hundred. Beyond this it is a mistake.
const BYTES_MAX: u64 = 4 << 20;

/// What Kubernetes knows of any object; our CRD's schema does not repeat it.
const METADATA: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

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

#[derive(Default)]
struct Reading {
    contents: Contents,
    complaints: Vec<Complaint>,
}

impl Reading {
    fn document(&mut self, document: &Node) {
        let version = document.get("apiVersion").and_then(Node::text).unwrap_or_default();
        let kind = document.get("kind").and_then(Node::text).unwrap_or_default();
        if !matches!(document.value(), Value::Map(_)) || kind.is_empty() || version.is_empty() {
            self.complain(document, "kind", "an object has an apiVersion and a kind", None);
            return;
        }
        if version.split('/').next() != Some(GROUP) {
            // Not a mistake in our group's name?
            if ["GameDay", "GameDayRun", "Cord"].contains(&kind) {
                let help = format!("write apiVersion: {GROUP}/v1alpha1");
                self.complain(document, "apiVersion", format!("no {kind} in {version}"), Some(help));
            } else {
                self.contents.others.push(document.to_json());
            }
            return;
        }
        match (version, kind) {
            ("gameday.dev/v1alpha1", "GameDay") => self.game_day(document),
            ("gameday.dev/v1alpha1", "GameDayRun") => {
                if self.object::<GameDayRun>(document, &[]).is_some() {
                    self.contents.others.push(document.to_json());
                }
            }
            ("gameday.dev/v1alpha1", "Cord") => {
                if self.object::<Cord>(document, &[]).is_some() {
                    self.contents.others.push(document.to_json());
                }
            }
            // How a pretended cluster behaves; it never goes to a real one.
            (_, "Rehearsal") => self.contents.others.push(document.to_json()),
            ("gameday.dev/v1alpha1", _) => {
                let help = schema::nearest(kind, &["GameDay", "GameDayRun", "Cord"])
                    .map_or("its kinds are GameDay, GameDayRun, Cord".to_owned(), |near| format!("did you mean {near:?}?"));
                self.complain(document, "kind", format!("no kind {kind:?} in {version}"), Some(help));
            }
            (_, _) => {
                let help = format!("write apiVersion: {GROUP}/v1alpha1");
                self.complain(document, "apiVersion", format!("no version {version:?}"), Some(help));
            }
        }
    }

    fn game_day(&mut self, document: &Node) {
        let before = self.complaints.len();
        let metadata = metadata_problems(document);
        // Admission first, because where both find something it says it better.
        let readable: Option<GameDay> = serde_json::from_value(document.to_json()).ok();
        let admitted = readable.as_ref().map(|game_day| engine::admit::admit(&game_day.spec));
        let mut said = metadata;
        if let Some(Err(problems)) = &admitted {
            said.extend(problems.0.iter().map(|problem| (problem.path.clone(), problem.message.clone())));
        }
        let paths: Vec<&str> = said.iter().map(|(path, _)| path.as_str()).collect();
        self.object::<GameDay>(document, &paths);
        for (path, message) in said {
            self.complain(document, &path, format!("{path}: {message}"), None);
        }
        // The order of the file, whoever found it.
        self.complaints[before..].sort_by_key(|complaint| complaint.place.as_ref().map(|place| place.bytes.start));
        if let (Some(game_day), Some(Ok(plan))) = (readable, admitted)
            && self.complaints.len() == before
        {
            self.contents.game_days.push((game_day, plan));
        }
    }

    /// The object, if it fits its schema; what admission has spoken of is left out.
    fn object<K: CustomResourceExt + DeserializeOwned>(&mut self, document: &Node, spoken_of: &[&str]) -> Option<K> {
        let before = self.complaints.len();
        let crd = serde_json::to_value(K::crd()).expect("a CRD is plain data");
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let Value::Map(entries) = document.value() else { return None };
        for (name, _) in entries {
            if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&name.value.as_str()) {
                let message = format!("unknown field {:?}", name.value);
                let help = Some("its fields are apiVersion, kind, metadata, spec".to_owned());
                self.complaints.push(Complaint { place: Place::of(name.referenced), message, help });
            }
        }
        if let Some(Value::Map(entries)) = document.get("metadata").map(Node::value) {
            for (name, _) in entries.iter().filter(|(name, _)| !METADATA.contains(&name.value.as_str())) {
                let message = format!("unknown field \"metadata.{}\"", name.value);
                let help = schema::nearest(&name.value, &METADATA).map(|near| format!("did you mean {near:?}?"));
                self.complaints.push(Complaint { place: Place::of(name.referenced), message, help });
            }
        }
        match document.get("spec") {
            None => self.complain(document, "spec", "spec: Required value", None),
            Some(spec) => {
                for misfit in schema::misfits(spec, &schema["properties"]["spec"], "spec", document.find("spec")) {
                    if misfit.kind == MisfitKind::Bounds && spoken_of.contains(&misfit.path.as_str()) {
                        continue;
                    }
                    let message = match misfit.kind {
                        MisfitKind::Unknown => misfit.message,
                        MisfitKind::Shape | MisfitKind::Bounds => format!("{}: {}", misfit.path, misfit.message),
                    };
                    let place = misfit.place.or_else(|| document.find(&misfit.path));
                    self.complaints.push(Complaint { place, message, help: misfit.help });
                }
            }
        }
        match serde_json::from_value(document.to_json()) {
            Ok(object) => Some(object),
            // The schema has found what it was, or else it is said as serde says it: never nothing.
            Err(error) => {
                if self.complaints.len() == before {
                    self.complain(document, "spec", error.to_string(), None);
                }
                None
            }
        }
    }

    fn complain(&mut self, document: &Node, path: &str, message: impl Into<String>, help: Option<String>) {
        self.complaints.push(Complaint { place: document.find(path), message: message.into(), help });
    }
}

/// What is wrong with the names, in the API server's words.
fn metadata_problems(document: &Node) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let metadata = document.get("metadata");
    match metadata.and_then(|metadata| metadata.get("name")) {
        None => problems.push(("metadata.name".to_owned(), "Required value".to_owned())),
        Some(node) => match node.text() {
            None => problems.push(("metadata.name".to_owned(), "must be of type string".to_owned())),
            Some(name) if name.chars().count() > limits::NAME => {
                problems.push(("metadata.name".to_owned(), says::NAME.to_owned()));
            }
            Some(name) if !is_subdomain(name) => problems.push((
                "metadata.name".to_owned(),
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
                 and end with an alphanumeric character"
                    .to_owned(),
            )),
            Some(_) => {}
        },
    }
    if let Some(namespace) = metadata.and_then(|metadata| metadata.get("namespace"))
        && namespace.text().is_none_or(|name| name.is_empty() || name.contains('.') || !is_subdomain(name))
    {
        problems.push((
            "metadata.namespace".to_owned(),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character"
                .to_owned(),
        ));
    }
    problems
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(|label| {
        let letters = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        letters && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    })
}
