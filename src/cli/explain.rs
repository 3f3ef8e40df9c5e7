//! A reference of all that can be written, read out of the schema that the CRDs are made of. What it shows is what the
//! API server asks for; only the examples are written here, and a test runs them through `inject` and admission.

use clap::{Args, ValueEnum};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::api::{Cord, Experiment, FaultKind, GameDay, GameDayRun, Guardrail, Injection, says};
use crate::engine::Permission;

use super::schema::{nearest, rule};
use super::{Exit, Failure, Output};

/// Explain what can be written, from the schema itself: all faults, one of them, or a field by its path
#[derive(Debug, Args)]
pub struct Explain {
    /// A fault or a field of it: network, network.to; or a path: spec.steadyState.expect. Nothing lists the faults
    #[arg(value_name = "FAULT|PATH")]
    what: Option<String>,
    /// Whose fields
    #[arg(long, value_name = "KIND", value_enum, ignore_case = true, default_value_t)]
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Kind {
    #[default]
    GameDay,
    GameDayRun,
    Cord,
    Guardrail,
    Injection,
}

/// Columns of a terminal that everybody has: the same text everywhere.
const WIDTH: usize = 100;

/// Where a game day's schema has the faults.
const FAULTS: &str = "spec.experiments.fault";

/// Suggestions of one refusal: more are not read.
const SUGGESTIONS_MAX: usize = 6;

impl Explain {
    pub fn run(self, output: &mut Output) -> Result<Exit, Failure> {
        let Explain { what, kind } = self;
        let schema = kind.schema();
        let text = match (what.as_deref(), kind) {
            (None, Kind::GameDay) => Ok(faults(&schema)),
            (None, Kind::GameDayRun | Kind::Cord | Kind::Guardrail | Kind::Injection) => page(kind, &schema, "spec"),
            (Some(what), _) => page(kind, &schema, what),
        };
        output.text(&text.map_err(Failure::invalid)?)?;
        Ok(Exit::Passed)
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::GameDay => "GameDay",
            Kind::GameDayRun => "GameDayRun",
            Kind::Cord => "Cord",
            Kind::Guardrail => "Guardrail",
            Kind::Injection => "Injection",
        }
    }

    /// What kube makes the CRD of, before it drops what an API server does not read: the sentences on single words.
    fn schema(self) -> Json {
        match self {
            Kind::GameDay => schema_of::<GameDay>(),
            Kind::GameDayRun => schema_of::<GameDayRun>(),
            Kind::Cord => schema_of::<Cord>(),
            Kind::Guardrail => schema_of::<Guardrail>(),
            Kind::Injection => schema_of::<Injection>(),
        }
    }
}

fn schema_of<K: JsonSchema>() -> Json {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<K>().into()
}

/// Every fault with its first sentence, by who holds it.
fn faults(schema: &Json) -> String {
    let mut text = String::new();
    for (held, title) in [
        (false, "Done by the operator, through the API server:"),
        (true, "Held by a process on the pod's node, and gone with it:"),
    ] {
        text.push_str(&format!("{title}\n"));
        for kind in FaultKind::ALL.into_iter().filter(|kind| kind.is_held() == held) {
            let described = find(schema, &format!("{FAULTS}.{kind}")).map(|found| description(found.schema)).unwrap_or_default();
            text.push_str(&format!("  {:<14} {}\n", kind.name(), first_sentence(&described)));
        }
        text.push('\n');
    }
    text.push_str("gameday explain network      one fault, its fields, and how to inject it once\n");
    text.push_str("gameday explain spec         a game day; spec.steadyState and so on for what is in it\n");
    text.push_str("gameday explain --kind Guardrail\n");
    text
}

/// What there is to say of one fault, or of one field.
fn page(kind: Kind, schema: &Json, what: &str) -> Result<String, String> {
    let first = what.split(['.', '[']).next().unwrap_or_default();
    let is_fault = kind == Kind::GameDay && FaultKind::ALL.into_iter().any(|fault| fault.name() == first);
    let path = if is_fault { format!("{FAULTS}.{what}") } else { what.to_owned() };
    let found = match find(schema, &path) {
        Err(Missing { within: None, field: _, known }) => return Err(nothing_like(kind, schema, what, &known)),
        Err(Missing { within: Some(within), field, known }) => {
            let within = within.strip_prefix(&format!("{FAULTS}.")).unwrap_or(&within);
            return Err(format!("{within} has no field {field:?}: {}", suggestion(&field, &known)));
        }
        Ok(found) => found,
    };
    let fault = FaultKind::ALL.into_iter().find(|fault| kind == Kind::GameDay && found.path == format!("{FAULTS}.{fault}"));
    let named = found.path.strip_prefix(&format!("{FAULTS}.")).filter(|_| kind == Kind::GameDay).unwrap_or(&found.path);
    let mut text = match fault {
        Some(fault) if fault.is_held() => format!("{fault}: a fault that a process on the pod's node holds\n"),
        Some(fault) => format!("{fault}: a fault that the operator does through the API server\n"),
        None => wrap(&format!("{} of a {}: {}", found.path, kind.name(), qualities(found.schema, found.required)), 0),
    };
    let inner = items(found.schema);
    for described in [description(found.schema), if inner == found.schema { String::new() } else { description(inner) }] {
        if !described.is_empty() {
            text.push_str(&format!("\n{}", wrap(&described, 2)));
        }
    }
    let rules = rules(inner);
    if !rules.is_empty() {
        text.push('\n');
    }
    for rule in rules {
        text.push_str(&wrap(&format!("- {rule}"), 2));
    }
    text.push_str(&words_told(found.schema, 2));
    text.push_str(&fields(kind, inner, named));
    if let Some(fault) = fault {
        text.push_str(&shown(fault));
    }
    Ok(text)
}

/// A field that a path leads to.
struct Found<'a> {
    /// Without the numbers of list items.
    path: String,
    schema: &'a Json,
    required: bool,
}

/// A path that leads nowhere.
struct Missing {
    /// The last field that exists; `None` where the first does not.
    within: Option<String>,
    field: String,
    known: Vec<String>,
}

/// Follows a path; lists are walked through, with or without a number: `experiments.hold`, `experiments[0].hold`.
fn find<'a>(schema: &'a Json, path: &str) -> Result<Found<'a>, Missing> {
    let mut found = Found { path: String::new(), schema, required: true };
    for field in path.split('.').map(|field| field.split('[').next().unwrap_or(field)) {
        let around = items(found.schema);
        let Some(next) = around["properties"].get(field) else {
            let within = Some(found.path).filter(|path| !path.is_empty());
            return Err(Missing { within, field: field.to_owned(), known: names(around).map(str::to_owned).collect() });
        };
        let required = around["required"].as_array().is_some_and(|all| all.iter().any(|name| name == field));
        let dot = if found.path.is_empty() { "" } else { "." };
        found = Found { path: format!("{}{dot}{field}", found.path), schema: next, required };
    }
    Ok(found)
}

/// What a list is a list of; anything else is itself.
fn items(schema: &Json) -> &Json {
    match schema.get("items") {
        Some(inner) if inner.is_object() => items(inner),
        Some(_) | None => schema,
    }
}

fn names(schema: &Json) -> impl Iterator<Item = &str> {
    schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str())
}

/// The refusal of a path whose first word is none: faults that are like it, and fields of that name further down.
fn nothing_like(kind: Kind, schema: &Json, what: &str, known: &[String]) -> String {
    let mut near = elsewhere(schema, &what.to_lowercase(), "");
    if kind != Kind::GameDay {
        let help = if near.is_empty() { suggestion(what, known) } else { did_you_mean(&near) };
        return format!("a {} has no field {what:?}: {help}", kind.name());
    }
    let faults: Vec<String> = FaultKind::ALL.map(FaultKind::name).map(str::to_owned).into();
    near.extend(near_ones(what, &[&faults, known].concat()));
    let help = if near.is_empty() {
        format!("the faults are {}; a path begins with {}", faults.join(", "), known.join(" or "))
    } else {
        did_you_mean(&near)
    };
    format!("no fault and no field {what:?}: {help}")
}

/// The paths that end in this word.
fn elsewhere(schema: &Json, word: &str, path: &str) -> Vec<String> {
    let around = items(schema);
    let mut all = Vec::new();
    for name in names(around) {
        let here = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        all.extend(elsewhere(&around["properties"][name], word, &here));
        if name.to_lowercase() == word {
            all.push(here);
        }
    }
    all.sort_by_key(String::len);
    all
}

fn suggestion(word: &str, known: &[String]) -> String {
    let near = near_ones(word, known);
    match (near.is_empty(), known.is_empty()) {
        (false, _) => did_you_mean(&near),
        (true, true) => "it has no fields".to_owned(),
        (true, false) => format!("its fields are {}", known.join(", ")),
    }
}

fn did_you_mean(near: &[String]) -> String {
    format!("did you mean {}?", near[..near.len().min(SUGGESTIONS_MAX)].join(", "))
}

/// Those that contain the word, and the one that a slip of the finger would make of it.
fn near_ones(word: &str, known: &[String]) -> Vec<String> {
    let lower = word.to_lowercase();
    let contained = known.iter().filter(|name| lower.len() > 1 && name.to_lowercase().contains(&lower));
    let mut near: Vec<String> = contained.cloned().collect();
    let slip = nearest(word, &known.iter().map(String::as_str).collect::<Vec<_>>());
    near.extend(slip.map(str::to_owned).filter(|slip| !near.contains(slip)));
    near
}

/// The fields of an object, one under the other; nothing where there are none.
fn fields(kind: Kind, schema: &Json, named: &str) -> String {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let Some(properties) = schema["properties"].as_object().filter(|properties| !properties.is_empty()) else {
        return String::new();
    };
    let width = properties.keys().map(String::len).max().unwrap_or(0);
    let indent = width + 4;
    let mut text = "\nFields:\n".to_owned();
    for (name, field) in properties {
        let qualities = wrap(&qualities(field, required.contains(&name.as_str())), indent);
        text.push_str(&format!("  {name:<width$}  {}", qualities.trim_start()));
        let described = description(field);
        if !described.is_empty() {
            text.push_str(&wrap(&described, indent));
        }
        text.push_str(&words_told(field, indent));
        if items(field)["properties"].as_object().is_none_or(|inner| inner.is_empty()) {
            for rule in rules(items(field)) {
                text.push_str(&wrap(&format!("- {rule}"), indent));
            }
        }
    }
    let nested = properties.iter().filter(|(_, field)| names(items(field)).next().is_some());
    let nested: Vec<String> = nested.map(|(name, _)| format!("{named}.{name}")).collect();
    if !nested.is_empty() {
        let kind = if kind == Kind::GameDay { String::new() } else { format!(" --kind {}", kind.name()) };
        text.push('\n');
        text.push_str(&wrap(&format!("gameday explain{kind} goes on with {}", nested.join(", ")), 0));
    }
    text
}

/// `whole number from 1 to 64; default 8`.
fn qualities(schema: &Json, required: bool) -> String {
    let mut text = kind_of(schema);
    if required {
        text.push_str("; required");
    }
    match &schema["default"] {
        Json::Null => {}
        default => text.push_str(&format!("; default {}", flow(default))),
    }
    text
}

/// What a value is, with its bounds.
fn kind_of(schema: &Json) -> String {
    let words = words(schema);
    if !words.is_empty() {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        return format!("one of {}", all.join(", "));
    }
    let small = [
        (says::DURATION, "duration, like 500ms or 1m30s"),
        (says::PERCENT, "percentage, a whole number from 1 to 100"),
        (says::CHANCE, "percentage, above 0 and at most 100"),
        (says::RATE, "rate, like 500kbit or 10Mbit"),
        (says::BYTES, "bytes, a whole number or written like 64Ki, 256Mi or 2Gi"),
        (says::CIDR, "address or range of them, like 10.1.2.3 or 10.0.0.0/8"),
        (says::TIME_OF_DAY, "time of day, like 09:30"),
        (says::DATE, "date, like 2026-12-24"),
        (says::VALUE, "whole number or duration, like 80 or 500ms"),
    ];
    if let Some((_, kind)) = small.into_iter().find(|(says, _)| rule(schema) == Some(says)) {
        return kind.to_owned();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "array" => format!("list{}: {}", bounds(schema, "minItems", "maxItems", " of "), kind_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            let bounds = bounds(schema, "minProperties", "maxProperties", " of ");
            format!("names with values{bounds}: {}", kind_of(&schema["additionalProperties"]))
        }
        "object" if names(schema).next().is_none() => "object without fields: {}".to_owned(),
        "object" => "object".to_owned(),
        "integer" => format!("whole number{}", bounds(schema, "minimum", "maximum", " from ")),
        "number" => format!("number{}", bounds(schema, "minimum", "maximum", " from ")),
        "boolean" => "true or false".to_owned(),
        "string" if schema["format"] == "date-time" => "time, like 2026-12-24T09:30:00Z".to_owned(),
        "string" => match bounds(schema, "minLength", "maxLength", " of ") {
            none if none.is_empty() => "text".to_owned(),
            bounds => format!("text{bounds} characters"),
        },
        other => other.to_owned(),
    }
}

fn bounds(schema: &Json, least: &str, most: &str, from: &str) -> String {
    match (schema[least].as_f64().filter(|least| *least > 0.0 || from == " from "), schema[most].as_f64()) {
        (Some(least), Some(most)) => format!("{from}{least} to {most}"),
        (Some(least), None) => format!(", {least} or more"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    }
}

/// The words that a value may be, each with its sentence where it has one.
fn words(schema: &Json) -> Vec<(&str, String)> {
    let own = schema["enum"].as_array().into_iter().flatten().filter_map(Json::as_str);
    let own = own.map(|word| (word, String::new()));
    let branches = ["oneOf", "anyOf"].into_iter().flat_map(|list| schema[list].as_array().into_iter().flatten());
    let branches = branches.flat_map(|branch| {
        let said = description(branch);
        words(branch).into_iter().map(move |(word, inner)| (word, if inner.is_empty() { said.clone() } else { inner }))
    });
    own.chain(branches).collect()
}

fn words_told(schema: &Json, indent: usize) -> String {
    let told = words(items(schema)).into_iter().filter(|(_, said)| !said.is_empty());
    told.map(|(word, said)| wrap(&format!("- {word}: {said}"), indent)).collect()
}

/// What the API server checks of an object beyond its fields; the rule of a small value is told by its kind.
fn rules(schema: &Json) -> Vec<&str> {
    let small = [says::DURATION, says::PERCENT, says::CHANCE, says::RATE, says::CIDR, says::TIME_OF_DAY, says::DATE, says::VALUE];
    let all = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    all.filter_map(|rule| rule["message"].as_str()).filter(|message| !small.contains(message)).collect()
}

fn description(schema: &Json) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

fn first_sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split_inclusive(". ").next().unwrap_or_default().trim_end().to_owned()
}

/// Paragraphs in lines of at most [`WIDTH`] columns, the first one of a list item hanging out.
fn wrap(text: &str, indent: usize) -> String {
    let mut wrapped = String::new();
    for paragraph in text.split("\n\n") {
        let hang = if paragraph.starts_with("- ") { 2 } else { 0 };
        let mut line = " ".repeat(indent);
        let mut begun = false;
        for word in paragraph.split_whitespace() {
            if begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
                wrapped.push_str(&line);
                wrapped.push('\n');
                line = " ".repeat(indent + hang);
                begun = false;
            }
            if begun {
                line.push(' ');
            }
            line.push_str(word);
            begun = true;
        }
        wrapped.push_str(&line);
        wrapped.push('\n');
    }
    wrapped
}

/// What a fault is tried with: its targets, and its words.
fn sample(fault: FaultKind) -> (Json, Json) {
    let pods = || json!({"pods": {"matchLabels": {"app": "checkout"}}});
    match fault {
        FaultKind::PodKill => (pods(), json!({"gracePeriod": "0s"})),
        FaultKind::PodEvict => (pods(), json!({"every": "30s"})),
        FaultKind::Scale => (json!({"workload": {"kind": "Deployment", "name": "payments"}}), json!({"percent": 50})),
        FaultKind::Cordon => (json!({"nodes": {"matchLabels": {"kubernetes.io/os": "linux"}}}), json!({})),
        FaultKind::Network => (pods(), json!({"delay": "100ms", "jitter": "20ms", "to": [{"service": "payments"}]})),
        FaultKind::Cpu => (pods(), json!({"percent": 80})),
        FaultKind::Memory => (pods(), json!({"percent": 80, "ramp": "10s"})),
        FaultKind::DiskFill => (pods(), json!({"path": "/data", "bytes": 268_435_456})),
        FaultKind::DiskIo => (pods(), json!({"path": "/data", "operation": "write"})),
        FaultKind::Files => (pods(), json!({"path": "/data", "delay": "100ms", "percent": 50})),
        FaultKind::Processes => (pods(), json!({"leave": 2})),
        FaultKind::Pause => (pods(), json!({})),
        FaultKind::ContainerKill => (pods(), json!({"signal": "TERM"})),
    }
}

/// A fault as it is written in a game day, from flags, and what its account needs.
fn shown(fault: FaultKind) -> String {
    let (targets, words) = sample(fault);
    let once = once(fault, &targets, &words);
    let written = json!({"name": "try-it", "targets": targets, "fault": {fault.name(): words}, "hold": "30s"});
    let mut text = "\nIn a game day:\n  experiments:\n".to_owned();
    text.push_str(&format!("  - name: {}\n", flow(&written["name"])));
    for field in ["targets", "fault", "hold"] {
        text.push_str(&format!("    {field}: {}\n", flow(&written[field])));
    }
    text.push_str("\nOnce, from flags:\n");
    text.push_str(&match once {
        Some(command) => format!("  {command}\n"),
        None => "  not from flags: they name pods or nodes, and this is done to a workload\n".to_owned(),
    });
    if let Ok(experiment) = Experiment::deserialize(written) {
        let needed = Permission::of(&experiment.fault, &experiment.targets);
        let needed: Vec<String> = needed.iter().map(Permission::to_string).collect();
        text.push_str(&format!("\nThe game day's service account needs: {}\n", needed.join("; ")));
    }
    text
}

/// The command that injects it, where flags can say whom.
fn once(fault: FaultKind, targets: &Json, words: &Json) -> Option<String> {
    let whom = ["pods", "nodes"].into_iter().find(|whom| targets.get(whom).is_some())?;
    let labels = targets[whom]["matchLabels"].as_object()?;
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let words = words.as_object().into_iter().flatten().map(|(word, value)| match flow(value) {
        plain if plain.contains(['{', '[', ' ']) => format!("'{word}={plain}'"),
        plain => format!("{word}={plain}"),
    });
    let all: Vec<String> = ["gameday inject".to_owned(), fault.to_string()].into_iter().chain(words).collect();
    Some(format!("{} --{whom} {} --http http://checkout.shop.svc/", all.join(" "), labels.join(",")))
}

/// A value as YAML on one line. Plain words only: what is shown here needs no quotes.
fn flow(value: &Json) -> String {
    match value {
        Json::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {}", flow(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Json::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::String(text) => text.clone(),
        Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;
    use crate::api::GameDaySpec;
    use crate::cli::{Cli, Verb};
    use crate::engine::admit;

    const KINDS: [Kind; 5] = [Kind::GameDay, Kind::GameDayRun, Kind::Cord, Kind::Guardrail, Kind::Injection];

    fn explained(what: &str) -> String {
        page(Kind::GameDay, &Kind::GameDay.schema(), what).unwrap()
    }

    fn refused(what: &str) -> String {
        page(Kind::GameDay, &Kind::GameDay.schema(), what).unwrap_err()
    }

    /// Every path of a schema, with what is there.
    fn paths<'a>(schema: &'a Json, path: &str, all: &mut Vec<(String, &'a Json)>) {
        let around = items(schema);
        for name in names(around) {
            let here = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            all.push((here.clone(), &around["properties"][name]));
            paths(&around["properties"][name], &here, all);
        }
    }

    /// What kube makes of the same types for the API server is what is explained.
    #[test]
    fn what_is_explained_is_what_the_crds_ask_for() {
        for (kind, crd) in KINDS.into_iter().zip(crate::cli::crds::all()) {
            assert_eq!(crd.spec.names.kind, kind.name());
            let crd = serde_json::to_value(&crd).unwrap();
            let asked = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let (own, mut of_crd, mut of_explain) = (kind.schema(), Vec::new(), Vec::new());
            paths(asked, "", &mut of_crd);
            paths(&own, "", &mut of_explain);
            assert_eq!(of_crd.len(), of_explain.len());
            for ((path, theirs), (same, ours)) in of_crd.iter().zip(&of_explain) {
                let required = |at: &Json| -> BTreeSet<String> {
                    items(at)["required"].as_array().into_iter().flatten().map(Json::to_string).collect()
                };
                let is_optional_word = ours["anyOf"].is_array();
                let said = |at: &Json| (at["description"].clone(), at["default"].clone(), required(at));
                let (mut theirs, mut ours) = (said(theirs), said(ours));
                // Of an optional word with sentences kube keeps its type's description and drops the field's.
                if is_optional_word {
                    (theirs.0, ours.0) = (Json::Null, Json::Null);
                }
                assert_eq!((path, theirs), (same, ours));
            }
            for ((path, theirs), (_, ours)) in of_crd.iter().zip(&of_explain) {
                let theirs: Vec<&str> = words(items(theirs)).into_iter().map(|(word, _)| word).collect();
                let mut ours: Vec<&str> = words(items(ours)).into_iter().map(|(word, _)| word).collect();
                ours.sort_by_key(|word| theirs.iter().position(|other| other == word));
                assert_eq!(ours, theirs, "{path}");
            }
        }
    }

    #[test]
    fn every_field_of_every_kind_has_a_page_with_its_kind_of_value() {
        let known = [
            "one of",
            "bytes",
            "duration",
            "percentage",
            "rate",
            "address",
            "time",
            "date",
            "whole number",
            "list",
            "names",
            "object",
            "number",
            "true or false",
            "text",
        ];
        for kind in KINDS {
            let schema = kind.schema();
            let mut all = Vec::new();
            paths(&schema, "", &mut all);
            assert!(all.len() > 3);
            for (path, at) in all {
                let of = kind_of(at);
                assert!(known.iter().any(|known| of.starts_with(known)) && !of.ends_with(": "), "{kind:?} {path}: {of:?}");
                let text = page(kind, &schema, &path).unwrap();
                let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
                assert!(longest <= WIDTH || text.contains("gameday inject"), "{text}");
            }
        }
    }

    #[test]
    fn each_fault_is_listed_once_with_a_sentence() {
        let text = faults(&Kind::GameDay.schema());
        for kind in FaultKind::ALL {
            let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(&format!("  {kind} "))).collect();
            assert!(matches!(lines.as_slice(), [line] if line.ends_with('.') && line.len() <= WIDTH), "{kind}: {lines:?}");
        }
    }

    /// The command and the lines of YAML under a fault mean the same, and both would be admitted.
    #[test]
    fn what_is_shown_of_a_fault_can_be_run() {
        for kind in FaultKind::ALL {
            let text = explained(kind.name());
            let (_, rest) = text.split_once("In a game day:\n").unwrap();
            let (written, rest) = rest.split_once("\nOnce, from flags:\n").unwrap();
            let probe = "hypothesis: h\nsteadyState: [{name: n, tcp: {address: 'a:1'}}]\n";
            let yaml: String = written.lines().map(|line| format!("{}\n", &line[2..])).collect();
            let spec: GameDaySpec = serde_saphyr::from_str(&format!("{probe}{yaml}")).unwrap();
            admit::admit(&spec).unwrap();
            assert_eq!(spec.experiments[0].fault.kinds(), [kind]);
            let command = rest.lines().next().unwrap().trim();
            if kind == FaultKind::Scale {
                assert!(command.starts_with("not from flags"), "{command}");
                continue;
            }
            // As a shell would split it, as far as quotes are used here.
            let arguments: Vec<String> = command
                .split('\'')
                .enumerate()
                .flat_map(|(index, part)| match index % 2 {
                    0 => part.split_whitespace().map(str::to_owned).collect(),
                    _ => vec![part.to_owned()],
                })
                .collect();
            let Verb::Inject(inject) = Cli::try_parse_from(&arguments).unwrap().verb else { panic!("{command}") };
            let ordered = inject.game_day().unwrap();
            admit::admit(&ordered.spec).unwrap();
            assert_eq!(ordered.spec.experiments[0].fault, spec.experiments[0].fault);
        }
    }

    #[test]
    fn a_field_is_found_by_its_path_with_or_without_numbers() {
        let at = |what: &str| explained(what).lines().next().unwrap().to_owned();
        assert_eq!(at("spec.experiments[0].hold"), at("spec.experiments.hold"));
        assert_eq!(at("network.to[1].cidr"), at("spec.experiments.fault.network.to.cidr"));
        assert_eq!(explained("network"), explained("spec.experiments.fault.network"));
        assert_eq!(at("spec.keep"), "spec.keep of a GameDay: whole number from 1 to 200; default 20");
        assert_eq!(at("spec.hypothesis"), "spec.hypothesis of a GameDay: text of 1 to 1024 characters; required");
    }

    #[test]
    fn words_are_told_with_their_sentences() {
        let text = explained("pause");
        assert!(text.contains("one of cgroup, process") && text.contains("- cgroup: Every process"), "{text}");
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is_like_it() {
        for (what, wanted) in [
            ("netwrk", "no fault and no field \"netwrk\": did you mean network?"),
            ("kill", "no fault and no field \"kill\": did you mean podKill, containerKill?"),
            ("blastradius", "no fault and no field \"blastradius\": did you mean spec.blastRadius?"),
            ("network.dely", "network has no field \"dely\": did you mean delay?"),
            ("spec.stedyState", "spec has no field \"stedyState\": did you mean steadyState?"),
            ("spec.keep.more", "spec.keep has no field \"more\": it has no fields"),
            ("network.", "network has no field \"\": its fields are burst, correlation, corrupt"),
        ] {
            assert!(refused(what).starts_with(wanted), "{what}: {}", refused(what));
        }
        assert!(refused("xyz").contains("the faults are podKill, ") && refused("xyz").ends_with("begins with spec or status"));
        assert!(refused("hold").contains("spec.blastRadius.hold"), "{}", refused("hold"));
        let guardrail = page(Kind::Guardrail, &Kind::Guardrail.schema(), "network").unwrap_err();
        assert!(guardrail.starts_with("a Guardrail has no field \"network\": its fields are spec, status"), "{guardrail}");
    }
}
