//! Guardrails: what the platform team allows anyone, decided on a picture of the cluster.
//!
//! Every rule answers Allow, Wait or Refuse, with its sum and the way out. Wait is said of what may pass by
//! itself, Refuse of what never will. Asked before a fault, and again each second while one is held: then
//! anything but Allow ends it.

mod answer;
mod approval;
pub mod ask;
mod budget;
mod built_in;
pub mod check;
mod hours;
mod kinds;
pub mod moment;
mod picture;
mod promotion;
mod protect;
mod reach;
pub mod slots;
mod tally;

#[cfg(test)]
mod tests;

pub use answer::{Answer, Says, sentence, verdict};
pub use ask::{Asked, Stage, ask};
pub use built_in::{BUILT_IN, BUILT_IN_YAML, built_in};
pub use kinds::kind_of;
pub use picture::{
    AlertShown, AutoscalerShown, BudgetShown, Effect, Hit, NodeShown, Picture, PodShown, WorkloadKey, WorkloadShown,
};
pub use promotion::Pass;
pub use protect::spared;

use std::collections::BTreeSet;

use crate::api::{Guardrail, GuardrailSpec};

/// A guardrail as decisions see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub name: String,
    pub spec: GuardrailSpec,
}

impl Named {
    pub fn of(guardrail: &Guardrail) -> Self {
        Named { name: guardrail.metadata.name.clone().unwrap_or_default(), spec: guardrail.spec.clone() }
    }

    /// Whether it covers a namespace. One whose labels are not known is covered: in doubt, the limit holds.
    pub fn covers(&self, namespace: &str, picture: &Picture) -> bool {
        match (&self.spec.namespace_selector, picture.namespaces.get(namespace)) {
            (None, _) | (Some(_), None) => true,
            (Some(selector), Some(labels)) => selector.matches(labels),
        }
    }
}

/// The guardrails that hold for a run: those that cover its namespace, or that of a pod on a node that it
/// would hit. Where none does, the built-in one, as it is in the cluster or as it comes with the program.
pub fn covering(all: &[Named], picture: &Picture, namespace: &str, victims: &[Hit]) -> Vec<Named> {
    let nodes: BTreeSet<&str> = victims.iter().filter(|hit| hit.is_node()).map(|hit| hit.target.name.as_str()).collect();
    let on_them = picture.pods.iter().filter(|pod| pod.node.as_deref().is_some_and(|node| nodes.contains(node)));
    let mut namespaces: BTreeSet<&str> = on_them.map(|pod| pod.namespace.as_str()).collect();
    namespaces.extend(victims.iter().filter_map(|hit| hit.namespace.as_deref()));
    namespaces.insert(namespace);
    let mut found: Vec<Named> = all
        .iter()
        .filter(|guardrail| guardrail.name != BUILT_IN)
        .filter(|guardrail| namespaces.iter().any(|namespace| guardrail.covers(namespace, picture)))
        .cloned()
        .collect();
    let own = |guardrail: &Named| guardrail.covers(namespace, picture);
    if !found.iter().any(own) {
        let kept = all.iter().find(|guardrail| guardrail.name == BUILT_IN).cloned();
        found.push(kept.unwrap_or_else(|| Named { name: BUILT_IN.to_owned(), spec: built_in() }));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}
