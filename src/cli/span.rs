//! A YAML document with the place of everything in it, so that a problem found in the data can be shown in the
//! file.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// A value and where it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Node(Spanned<Value>);

/// What is written, in the order of the file.
#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

/// Where something is written. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
    /// Bytes of the file.
    pub bytes: Range<usize>,
}

impl Place {
    /// `None` where the parser does not know it.
    pub fn of(location: Location) -> Option<Place> {
        let start = usize::try_from(location.span().byte_offset()?).ok()?;
        let length = usize::try_from(location.span().byte_len().unwrap_or(0)).ok()?;
        Some(Place {
            line: usize::try_from(location.line()).ok()?,
            column: usize::try_from(location.column()).ok()?,
            bytes: start..start + length,
        })
    }
}

impl Node {
    pub fn value(&self) -> &Value {
        &self.0.value
    }

    /// Where the value itself starts. An alias is shown where it is used.
    pub fn place(&self) -> Option<Place> {
        Place::of(self.0.referenced)
    }

    /// The value of a key; `None` for anything but a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self.value() {
            Value::Map(entries) => entries.iter().find(|(name, _)| name.value == key).map(|(_, node)| node),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self.value() {
            Value::Text(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Where to point for a path like `spec.experiments[0].hold`: at a plain value itself, at the key of a map or
    /// list, and for what is not there at the nearest thing around it.
    pub fn find(&self, path: &str) -> Option<Place> {
        let mut node = self;
        let mut place = self.place();
        for step in path.split('.').flat_map(steps) {
            let found = match (step, node.value()) {
                (Step::Key(key), Value::Map(entries)) => {
                    entries.iter().find(|(name, _)| name.value == key).map(|(name, node)| (Place::of(name.referenced), node))
                }
                (Step::Index(index), Value::List(items)) => items.get(index).map(|item| (item.start(), item)),
                (Step::Key(_) | Step::Index(_), _) => None,
            };
            let Some((at, next)) = found else { break };
            place = match next.value() {
                Value::List(_) | Value::Map(_) | Value::Null => at.or(place),
                Value::Bool(_) | Value::Number(_) | Value::Text(_) => next.place().or(at).or(place),
            };
            node = next;
        }
        place
    }

    /// A map's first key, and anything else itself: a map's own span is many lines.
    fn start(&self) -> Option<Place> {
        match self.value() {
            Value::Map(entries) => entries.first().and_then(|(name, _)| Place::of(name.referenced)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => self.place(),
        }
    }

    /// The same without places.
    pub fn to_json(&self) -> serde_json::Value {
        match self.value() {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(value) => value.clone().into(),
            Value::Text(value) => value.clone().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|(name, node)| (name.value.clone(), node.to_json())).collect(),
        }
    }
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `experiments[0]` is a key and an index.
fn steps(part: &str) -> impl Iterator<Item = Step<'_>> {
    let (key, indices) = part.split_once('[').unwrap_or((part, ""));
    let indices = indices.split(']').filter_map(|index| index.trim_start_matches('[').parse().ok());
    std::iter::once(Step::Key(key)).filter(|_| !key.is_empty()).chain(indices.map(Step::Index))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format_args!("{value} is not a number that Kubernetes can store")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
