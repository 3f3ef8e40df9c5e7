//! What the API server would find wrong with the shape of an object, found without one: the object is walked
//! beside the CRD's own schema. Unknown fields, missing ones, wrong types, wrong words, wrong sizes, in the API
//! server's own words.

use serde::de::DeserializeOwned;
use serde_json::Value as Schema;

use crate::api::{self, Bytes, Chance, Cidr, Date, Duration, Percent, Rate, TimeOfDay, says};

use super::span::{Node, Place, Value};

/// One thing that does not fit the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Misfit {
    pub kind: MisfitKind,
    pub path: String,
    pub message: String,
    pub help: Option<String>,
    pub place: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MisfitKind {
    /// The field does not exist. What is left can still be read.
    Unknown,
    /// The value has another shape: the object cannot be read.
    Shape,
    /// A size out of bounds. Admission may say the same, better.
    Bounds,
}

/// Everything about `node` that does not fit, in the order of the file. `place` is where to point for what is not
/// there at all.
pub fn misfits(node: &Node, schema: &Schema, path: &str, place: Option<Place>) -> Vec<Misfit> {
    let mut walk = Walk { found: Vec::new() };
    walk.visit(node, schema, path, place);
    walk.found
}

struct Walk {
    found: Vec<Misfit>,
}

impl Walk {
    fn add(&mut self, kind: MisfitKind, path: &str, place: &Option<Place>, message: String) {
        self.found.push(Misfit { kind, path: path.to_owned(), message, help: None, place: place.clone() });
    }

    /// `around` is where to point when the value itself is a map or list: its key.
    fn visit(&mut self, node: &Node, schema: &Schema, path: &str, around: Option<Place>) {
        let wanted = schema["type"].as_str().unwrap_or_default();
        let own = node.place().or_else(|| around.clone());
        match (node.value(), wanted) {
            (Value::Null, _) if schema["nullable"] == true => {}
            (Value::Map(entries), "object") => {
                for required in schema["required"].as_array().into_iter().flatten().filter_map(Schema::as_str) {
                    if node.get(required).is_none() {
                        self.add(MisfitKind::Shape, &join(path, required), &around, "Required value".to_owned());
                    }
                }
                for (name, value) in entries {
                    let key = &name.value;
                    let place = Place::of(name.referenced).or_else(|| around.clone());
                    let inner = &schema["properties"][key.as_str()];
                    if !inner.is_null() {
                        self.visit(value, inner, &join(path, key), place);
                    } else if schema["additionalProperties"].is_object() {
                        self.visit(value, &schema["additionalProperties"], &join(path, key), place);
                    } else {
                        self.unknown(schema, path, key, place);
                    }
                }
                self.size(entries.len(), schema, ["minProperties", "maxProperties"], "entries", path, &around);
            }
            (Value::List(items), "array") => {
                self.size(items.len(), schema, ["minItems", "maxItems"], "items", path, &around);
                for (index, item) in items.iter().enumerate() {
                    self.visit(item, &schema["items"], &format!("{path}[{index}]"), item.place());
                }
            }
            (Value::Text(text), "string") => self.text(text, schema, path, &own),
            (Value::Number(number), "integer" | "number") if wanted == "number" || !number.is_f64() => {
                self.number(number, schema, path, &own);
            }
            (Value::Bool(_), "boolean") => {}
            (Value::Text(_) | Value::Number(_), _) if schema["x-kubernetes-int-or-string"] == true => {
                if let Some(message) = unfit(schema, node.to_json()) {
                    self.add(MisfitKind::Shape, path, &own, message);
                }
            }
            (value, _) => {
                let place = if matches!(value, Value::Map(_) | Value::List(_) | Value::Null) { around } else { own };
                let message = match (rule(schema), value) {
                    (Some(says::DURATION), Value::Number(number)) => format!("{}, not {number}", says::DURATION),
                    (Some(says::PERCENT), Value::Text(text)) => format!("{}, not {text:?}", says::PERCENT),
                    (Some(_) | None, _) => format!("must be of type {wanted}, not {}", name_of(value)),
                };
                self.add(MisfitKind::Shape, path, &place, message);
            }
        }
    }

    fn unknown(&mut self, schema: &Schema, path: &str, key: &str, place: Option<Place>) {
        let known: Vec<&str> = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let help = match nearest(key, &known) {
            Some(near) => Some(format!("did you mean {near:?}?")),
            None if known.is_empty() => Some("it has no fields".to_owned()),
            None => Some(format!("its fields are {}", known.join(", "))),
        };
        let full = join(path, key);
        let message = format!("unknown field {full:?}");
        self.found.push(Misfit { kind: MisfitKind::Unknown, path: full, message, help, place });
    }

    fn text(&mut self, text: &str, schema: &Schema, path: &str, place: &Option<Place>) {
        if let Some(words) = schema["enum"].as_array() {
            if !words.iter().any(|word| word == text) {
                let words: Vec<String> = words.iter().map(Schema::to_string).collect();
                let message = format!("Unsupported value: {text:?}: supported values: {}", words.join(", "));
                self.add(MisfitKind::Shape, path, place, message);
            }
            return;
        }
        let refusal = match rule(schema) {
            Some(says::DURATION) => text.parse::<Duration>().err().map(|error| error.to_string()),
            Some(_) | None => unfit(schema, text.into()),
        };
        match refusal {
            Some(message) => self.add(MisfitKind::Shape, path, place, message),
            None => self.size(text.chars().count(), schema, ["minLength", "maxLength"], "characters", path, place),
        }
    }

    fn number(&mut self, number: &serde_json::Number, schema: &Schema, path: &str, place: &Option<Place>) {
        if let Some(message) = unfit(schema, number.clone().into()) {
            return self.add(MisfitKind::Shape, path, place, message);
        }
        let fits = match schema["format"].as_str() {
            Some("int32") => number.as_i64().is_some_and(|value| i32::try_from(value).is_ok()),
            Some(_) | None => number.as_i64().is_some() || schema["type"] == "number",
        };
        if !fits {
            self.add(MisfitKind::Shape, path, place, format!("{number} is too large or too small"));
            return;
        }
        let value = number.as_f64().unwrap_or_default();
        if let Some(minimum) = schema["minimum"].as_f64().filter(|minimum| value < *minimum) {
            self.add(MisfitKind::Bounds, path, place, format!("should be greater than or equal to {minimum}"));
        }
        if let Some(maximum) = schema["maximum"].as_f64().filter(|maximum| value > *maximum) {
            self.add(MisfitKind::Bounds, path, place, format!("should be less than or equal to {maximum}"));
        }
    }

    fn size(&mut self, size: usize, schema: &Schema, bounds: [&str; 2], what: &str, path: &str, place: &Option<Place>) {
        let bound = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
        let [least, most] = bounds.map(bound);
        if let Some(least) = least.filter(|least| size < *least) {
            self.add(MisfitKind::Bounds, path, place, format!("should have at least {least} {what}"));
        }
        if let Some(most) = most.filter(|most| size > *most) {
            self.add(MisfitKind::Bounds, path, place, format!("may not have more than {most} {what}"));
        }
    }
}

/// The sentence of the schema's first CEL rule: how our own small values are told from plain strings and numbers.
pub fn rule(schema: &Schema) -> Option<&str> {
    schema["x-kubernetes-validations"][0]["message"].as_str()
}

/// What is wrong with one of our own small values, as its own parser has it.
fn unfit(schema: &Schema, value: Schema) -> Option<String> {
    fn no<T: DeserializeOwned>(value: &Schema) -> bool {
        T::deserialize(value).is_err()
    }
    let says = rule(schema)?;
    let is_unfit = match says {
        says::BYTES => no::<Bytes>(&value),
        says::CHANCE => no::<Chance>(&value),
        says::CIDR => no::<Cidr>(&value),
        says::DATE => no::<Date>(&value),
        says::PERCENT => no::<Percent>(&value),
        says::RATE => no::<Rate>(&value),
        says::TIME_OF_DAY => no::<TimeOfDay>(&value),
        says::VALUE => no::<api::Value>(&value),
        _ => false,
    };
    is_unfit.then(|| format!("{says}, not {value}"))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Text(_) => "string",
        Value::List(_) => "array",
        Value::Map(_) => "object",
    }
}

/// The word that was probably meant: at most a third of its letters differ or have changed places, whatever their case.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distance = |other: &str| strsim::osa_distance(&word, &other.to_lowercase());
    let near = known.iter().min_by_key(|other| distance(other))?;
    (distance(near) <= (near.chars().count() / 3).max(1)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        let known = ["name", "targets", "fault", "hold", "after"];
        assert_eq!(nearest("target", &known), Some("targets"));
        assert_eq!(nearest("Hold", &known), Some("hold"));
        assert_eq!(nearest("fualt", &known), Some("fault"));
        assert_eq!(nearest("foo", &known), None);
    }

    #[test]
    fn a_small_value_that_is_none_is_said_in_its_place() {
        let schema = super::super::document::spec_schema::<crate::api::GameDay>();
        let fault = &schema["properties"]["experiments"]["items"]["properties"]["fault"];
        for (written, said) in [
            (
                "{memory: {bytes: 5MB}}",
                "fault.memory.bytes: bytes are a whole number, or written like 64Ki, 256Mi or 2Gi, not \"5MB\"",
            ),
            (
                "{memory: {bytes: 1.5}}",
                "fault.memory.bytes: bytes are a whole number, or written like 64Ki, 256Mi or 2Gi, not 1.5",
            ),
            ("{network: {rate: 5MBps}}", "fault.network.rate: a rate is written like 500kbit, 10Mbit or 1Gbit, not \"5MBps\""),
            ("{network: {loss: 0}}", "fault.network.loss: a percentage of packets is above 0 and at most 100, not 0"),
            ("{network: {delay: 1}}", "fault.network.delay: a duration is written like 500ms, 30s, 5m or 1m30s, not 1"),
        ] {
            let node: Node = serde_saphyr::from_str(written).unwrap();
            let found = misfits(&node, fault, "fault", None);
            let texts: Vec<String> = found.iter().map(|misfit| format!("{}: {}", misfit.path, misfit.message)).collect();
            assert_eq!(texts, [said], "{written}");
        }
        let node: Node = serde_saphyr::from_str("{memory: {bytes: 256Mi}, network: {rate: 5Mbit, loss: 0.5}}").unwrap();
        assert_eq!(misfits(&node, fault, "fault", None), []);
    }
}
