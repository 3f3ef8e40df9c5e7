//! Which faults, how long, and how strong.

use crate::api::{Duration, Fault, FaultKind, Value, ValueRule};
use crate::engine::admit::Kind;

use super::Named;
use super::answer::{Answer, Says};

/// The name of a fault.
pub fn kind_of(kind: &Kind) -> FaultKind {
    match kind {
        Kind::PodKill { .. } => FaultKind::PodKill,
        Kind::PodEvict { .. } => FaultKind::PodEvict,
        Kind::Scale(_) => FaultKind::Scale,
        Kind::Cordon => FaultKind::Cordon,
        Kind::Hold(held) => held.kind,
    }
}

pub fn kinds(guardrail: &Named, kind: FaultKind, fault: &Fault, hold: Duration) -> Vec<Answer> {
    let rule = &guardrail.spec.faults;
    let mut answers = Vec::new();
    let mut refuse = |rule: &'static str, sum: String, way_out: String| {
        answers.push(Answer {
            guardrail: guardrail.name.clone(),
            rule,
            subject: String::new(),
            sum,
            way_out,
            says: Says::Refuse,
        });
    };
    if let Some(allow) = &rule.allow
        && !allow.contains(&kind)
    {
        let names: Vec<String> = allow.iter().map(FaultKind::to_string).collect();
        let way_out =
            if names.is_empty() { "there is none: it allows no faults".to_owned() } else { format!("use {}", names.join(", ")) };
        refuse("faults.allow", format!("{kind} is not among the faults it allows"), way_out);
    }
    if let Some(longest) = rule.hold
        && hold > longest
    {
        refuse("faults.hold", format!("a hold of {hold} is longer than {longest}"), format!("hold for at most {longest}"));
    }
    // A fault is a struct of options and numbers.
    let written = serde_json::to_value(fault).expect("a fault is written as JSON");
    for bound in &rule.values {
        if let Some((sum, way_out)) = outside(bound, &written) {
            refuse("faults.values", sum, way_out);
        }
    }
    answers
}

/// Why a value is not within its bounds, and what would be.
fn outside(bound: &ValueRule, written: &serde_json::Value) -> Option<(String, String)> {
    let ValueRule { field, min, max } = bound;
    let found = field.split('.').try_fold(written, |value, part| value.get(part))?;
    let unreadable = || {
        (
            format!("{field} is {found}, which cannot be compared with its bound"),
            "ask the platform team to mend the bound".to_owned(),
        )
    };
    let Some(value) = Value::read(found) else { return Some(unreadable()) };
    if let Some(min) = min {
        match compare(value, *min) {
            None => return Some(unreadable()),
            Some(std::cmp::Ordering::Less) => {
                return Some((format!("{field} is {value}, less than {min}"), format!("set {field} to at least {min}")));
            }
            Some(std::cmp::Ordering::Equal | std::cmp::Ordering::Greater) => {}
        }
    }
    if let Some(max) = max {
        match compare(value, *max) {
            None => return Some(unreadable()),
            Some(std::cmp::Ordering::Greater) => {
                return Some((format!("{field} is {value}, more than {max}"), format!("set {field} to at most {max}")));
            }
            Some(std::cmp::Ordering::Equal | std::cmp::Ordering::Less) => {}
        }
    }
    None
}

fn compare(value: Value, bound: Value) -> Option<std::cmp::Ordering> {
    match (value, bound) {
        (Value::Number(value), Value::Number(bound)) => Some(value.cmp(&bound)),
        (Value::Duration(value), Value::Duration(bound)) => Some(value.cmp(&bound)),
        (Value::Number(_), Value::Duration(_)) | (Value::Duration(_), Value::Number(_)) => None,
    }
}
