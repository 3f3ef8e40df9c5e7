//! A plan that was saved binds its run: where anything has changed since, the run refuses and shows the difference.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::{Bound, GuardrailSpec};

use super::TargetId;
use super::guardrail::Named;

/// A target as a plan names it.
pub fn name(target: &TargetId) -> String {
    format!("{target} ({})", target.uid)
}

/// Guardrails as a plan keeps them.
pub fn guardrails(holding: &[Named]) -> BTreeMap<String, String> {
    holding.iter().map(|named| (named.name.clone(), text(&named.spec))).collect()
}

fn text(spec: &GuardrailSpec) -> String {
    serde_json::to_value(spec).unwrap_or_default().to_string()
}

/// # Errors
/// Other victims than planned.
pub fn victims<'a>(bound: &Bound, experiment: &str, chosen: impl Iterator<Item = &'a TargetId>) -> Result<(), String> {
    let mut chosen: Vec<String> = chosen.map(name).collect();
    chosen.sort();
    let Some(planned) = bound.victims.iter().find(|planned| planned.experiment == experiment) else {
        return Err(format!("not as planned: the plan knows no experiment {experiment}"));
    };
    let mut planned = planned.targets.clone();
    planned.sort();
    if planned == chosen {
        return Ok(());
    }
    let only = |these: &[String], those: &[String]| {
        these.iter().filter(|one| !those.contains(one)).cloned().collect::<Vec<_>>().join(", ")
    };
    Err(format!("not as planned: it would hit {} now, and the plan had {}", only(&chosen, &planned), only(&planned, &chosen)))
}

/// # Errors
/// Other guardrails than planned, or the same that say something else.
pub fn limits(bound: &Bound, holding: &[Named]) -> Result<(), String> {
    let now = guardrails(holding);
    let changed: Vec<String> = bound
        .guardrails
        .iter()
        .filter_map(|(name, before)| match now.get(name) {
            None => Some(format!("guardrail {name} does not hold any more")),
            Some(spec) if spec == before => None,
            Some(spec) => Some(format!("guardrail {name} has changed: {}", difference(before, spec))),
        })
        .chain(now.keys().filter(|name| !bound.guardrails.contains_key(*name)).map(|name| format!("guardrail {name} is new")))
        .collect();
    if changed.is_empty() { Ok(()) } else { Err(format!("not as planned: {}", changed.join("; "))) }
}

fn difference(before: &str, now: &str) -> String {
    let read = |text: &str| serde_json::from_str::<BTreeMap<String, Value>>(text).unwrap_or_default();
    let (before, now) = (read(before), read(now));
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    let fields = before.keys().chain(now.keys().filter(|field| !before.contains_key(*field)));
    let changed = fields.filter(|field| before.get(*field) != now.get(*field));
    changed
        .map(|field| format!("{field} was {}, is {}", shown(before.get(field)), shown(now.get(field))))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BoundVictims, TargetKind};

    fn target(name: &str) -> TargetId {
        TargetId { kind: TargetKind::Pod, name: name.to_owned(), uid: format!("uid-{name}") }
    }

    fn named(name: &str, runs: i32) -> Named {
        Named { name: name.to_owned(), spec: serde_json::from_value(serde_json::json!({"runs": runs})).unwrap() }
    }

    #[test]
    fn what_has_changed_is_shown() {
        let victims_planned =
            BoundVictims { experiment: "one".to_owned(), targets: vec![name(&target("a")), name(&target("b"))] };
        let bound = Bound { victims: vec![victims_planned], guardrails: guardrails(&[named("x", 1), named("y", 1)]) };
        assert_eq!(victims(&bound, "one", [target("b"), target("a")].iter()), Ok(()));
        assert_eq!(
            victims(&bound, "one", [target("a"), target("c")].iter()).unwrap_err(),
            "not as planned: it would hit Pod/c (uid-c) now, and the plan had Pod/b (uid-b)"
        );
        assert_eq!(limits(&bound, &[named("x", 1), named("y", 1)]), Ok(()));
        assert_eq!(
            limits(&bound, &[named("x", 2), named("z", 1)]).unwrap_err(),
            "not as planned: guardrail x has changed: runs was 1, is 2; guardrail y does not hold any more; guardrail z is new"
        );
    }
}
