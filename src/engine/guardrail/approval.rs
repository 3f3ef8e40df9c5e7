//! Whether people have said yes.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::Approval;
use crate::engine::RunId;

use super::Named;
use super::answer::{Answer, Says};

/// `None`: nobody need be asked.
///
/// # Assumes
/// The admission policy let nobody write an approval in another's name, or without the right it names.
pub fn approval(guardrail: &Named, run: &RunId, approvals: &[Approval], now: Timestamp) -> Option<Answer> {
    let rule = guardrail.spec.approval.as_ref()?;
    let end =
        |approval: &Approval| approval.until.min(approval.at.saturating_add(rule.longest.as_signed()).unwrap_or(approval.at));
    let valid = approvals.iter().filter(|approval| approval.verb == rule.verb && approval.at <= now && now < end(approval));
    // Somebody who said yes twice is still one person.
    let mut by: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for approval in valid {
        let until = end(approval);
        by.entry(&approval.by).and_modify(|known| *known = (*known).max(until)).or_insert(until);
    }
    let people = usize::try_from(rule.people).unwrap_or(usize::MAX);
    let says = if by.len() >= people { Says::Allow } else { Says::Wait };
    let names: Vec<String> = by.iter().map(|(name, until)| format!("{name} until {until:.0}")).collect();
    let who = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    let way_out = match says {
        Says::Allow => String::new(),
        Says::Wait | Says::Refuse => {
            format!("somebody who may {} gamedayruns runs: gameday approve {} --namespace {}", rule.verb, run.name, run.namespace)
        }
    };
    Some(Answer {
        guardrail: guardrail.name.clone(),
        rule: "approval",
        subject: String::new(),
        sum: format!("approved by {} of {people} people{who}", by.len()),
        way_out,
        says,
    })
}
