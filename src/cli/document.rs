//! One document of a file: what it is, and everything that is wrong with it, in the words that the API server and
//! the operator use.

use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::api::{Cord, GROUP, GameDay, GameDayRun, Guardrail, limits, says};
use crate::engine;

use super::complaint::Complaint;
use super::schema::{self, Misfit, MisfitKind};
use super::source::Contents;
use super::span::{Node, Place, Value};

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

/// What has been read of a file so far, and what is wrong with it.
#[derive(Default)]
pub struct Reading {
    pub contents: Contents,
    pub complaints: Vec<Complaint>,
}

/// The kinds of our group.
const KINDS: [&str; 4] = ["GameDay", "GameDayRun", "Cord", "Guardrail"];

impl Reading {
    /// Reads one document.
    pub fn document(&mut self, document: &Node) {
        let version = document.get("apiVersion").and_then(Node::text).unwrap_or_default();
        let kind = document.get("kind").and_then(Node::text).unwrap_or_default();
        if !matches!(document.value(), Value::Map(_)) || kind.is_empty() || version.is_empty() {
            self.complain(document, "kind", "an object has an apiVersion and a kind", None);
            return;
        }
        if version.split('/').next() != Some(GROUP) {
            // Not a mistake in our group's name?
            if KINDS.contains(&kind) {
                let help = format!("write apiVersion: {GROUP}/v1alpha1");
                self.complain(document, "apiVersion", format!("no {kind} in {version}"), Some(help));
            } else {
                self.contents.others.push(document.to_json());
            }
            return;
        }
        match (version, kind) {
            ("gameday.dev/v1alpha1", "GameDay") => self.game_day(document),
            ("gameday.dev/v1alpha1", "GameDayRun") => self.other::<GameDayRun>(document),
            ("gameday.dev/v1alpha1", "Cord") => self.other::<Cord>(document),
            ("gameday.dev/v1alpha1", "Guardrail") => self.guardrail(document),
            // How a pretended cluster behaves; it never goes to a real one.
            (_, "Rehearsal") => self.contents.others.push(document.to_json()),
            ("gameday.dev/v1alpha1", _) => {
                let help = schema::nearest(kind, &KINDS)
                    .map_or(format!("its kinds are {}", KINDS.join(", ")), |near| format!("did you mean {near:?}?"));
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
        let schema = spec_schema::<GameDay>();
        let misfits = spec_misfits(document, &schema);
        let mut said = metadata_problems(document);
        // Admission is asked even where the shape is wrong, of what is left without it: all problems at once.
        let readable: Option<GameDay> = serde_json::from_value(without_misshapen(document, &misfits)).ok();
        let admitted = readable.as_ref().map(|game_day| engine::admit::admit(&game_day.spec));
        if let Some(Err(problems)) = &admitted {
            let misshapen: Vec<&str> = misshapen(&misfits).map(|misfit| misfit.path.as_str()).collect();
            // What is missing is probably what was misspelt.
            let misspelt: Vec<&str> = misfits
                .iter()
                .filter(|misfit| misfit.kind == MisfitKind::Unknown)
                .filter_map(|misfit| Some(misfit.path.rsplit_once('.')?.0))
                .collect();
            let own = problems.0.iter().filter(|problem| {
                !misshapen.iter().any(|path| touch(path, &problem.path)) && !misspelt.contains(&problem.path.as_str())
            });
            said.extend(own.map(|problem| (problem.path.clone(), problem.message.clone())));
        }
        self.envelope(document);
        for misfit in misfits {
            // Where both find something, admission says it better.
            if misfit.kind != MisfitKind::Bounds || !said.iter().any(|(path, _)| *path == misfit.path) {
                self.misfit(document, misfit);
            }
        }
        for (path, message) in said {
            self.complain(document, &path, format!("{path}: {message}"), None);
        }
        // The order of the file, whoever found it.
        self.complaints[before..].sort_by_key(|complaint| complaint.place.as_ref().map(|place| place.bytes.start));
        if self.complaints.len() > before {
            return;
        }
        match (readable, admitted) {
            (Some(game_day), Some(Ok(plan))) => self.contents.game_days.push((game_day, plan)),
            (Some(_) | None, Some(Ok(_) | Err(_)) | None) => self.unreadable::<GameDay>(document),
        }
    }

    /// An object of ours that is no game day.
    fn other<K: CustomResourceExt + DeserializeOwned>(&mut self, document: &Node) {
        let before = self.complaints.len();
        self.envelope(document);
        for misfit in spec_misfits(document, &spec_schema::<K>()) {
            self.misfit(document, misfit);
        }
        if self.complaints.len() == before {
            self.unreadable::<K>(document);
        }
        if self.complaints.len() == before {
            self.contents.others.push(document.to_json());
        }
    }

    fn guardrail(&mut self, document: &Node) {
        let before = self.complaints.len();
        self.other::<Guardrail>(document);
        if self.complaints.len() > before {
            return;
        }
        let readable: Option<Guardrail> = serde_json::from_value(document.to_json()).ok();
        if let Some(Err(problems)) = readable.map(|guardrail| engine::guardrail::check::check(&guardrail.spec)) {
            for problem in problems.0 {
                self.complain(document, &problem.path, problem.to_string(), None);
            }
        }
    }

    /// Complains as serde does where the schema found nothing: never nothing.
    fn unreadable<K: DeserializeOwned>(&mut self, document: &Node) {
        if let Err(error) = serde_json::from_value::<K>(document.to_json()) {
            self.complain(document, "spec", error.to_string(), None);
        }
    }

    /// What is around the spec.
    fn envelope(&mut self, document: &Node) {
        let Value::Map(entries) = document.value() else { return };
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
        if document.get("spec").is_none() {
            self.complain(document, "spec", "spec: Required value", None);
        }
    }

    fn misfit(&mut self, document: &Node, misfit: Misfit) {
        let message = match misfit.kind {
            MisfitKind::Unknown => misfit.message,
            MisfitKind::Shape | MisfitKind::Bounds => format!("{}: {}", misfit.path, misfit.message),
        };
        let place = misfit.place.or_else(|| document.find(&misfit.path));
        self.complaints.push(Complaint { place, message, help: misfit.help });
    }

    fn complain(&mut self, document: &Node, path: &str, message: impl Into<String>, help: Option<String>) {
        self.complaints.push(Complaint { place: document.find(path), message: message.into(), help });
    }
}

pub fn spec_schema<K: CustomResourceExt>() -> Json {
    let mut crd = serde_json::to_value(K::crd()).expect("a CRD is plain data");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].take()
}

fn spec_misfits(document: &Node, schema: &Json) -> Vec<Misfit> {
    document.get("spec").map(|spec| schema::misfits(spec, schema, "spec", document.find("spec"))).unwrap_or_default()
}

fn misshapen(misfits: &[Misfit]) -> impl Iterator<Item = &Misfit> {
    misfits.iter().filter(|misfit| misfit.kind == MisfitKind::Shape)
}

/// The object without the values that have the wrong shape: their fields take their defaults, or are missing, and
/// then nobody can read it.
fn without_misshapen(document: &Node, misfits: &[Misfit]) -> Json {
    let mut object = document.to_json();
    for misfit in misshapen(misfits) {
        // An item is taken out with its list: the others would change their numbers.
        let field = misfit.path.trim_end_matches(']').trim_end_matches(|letter: char| letter.is_ascii_digit());
        let field = if misfit.path.ends_with(']') { field.trim_end_matches('[') } else { misfit.path.as_str() };
        let Some((around, key)) = field.rsplit_once('.') else { continue };
        let pointer = format!("/{}", around.replace(['.', '['], "/").replace(']', ""));
        if let Some(Json::Object(fields)) = object.pointer_mut(&pointer) {
            fields.remove(key);
        }
    }
    object
}

/// Whether one path is the other, or around it.
fn touch(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
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
