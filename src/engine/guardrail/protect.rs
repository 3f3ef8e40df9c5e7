//! What no fault hits: protected namespaces, names and labels, always `kube-system` and the operator's own.

use super::Named;
use super::answer::{Answer, Says};
use super::picture::{Hit, Picture};
use super::reach::{self, Scene};

const ALWAYS: &str = "kube-system";

/// Which of the victims a guardrail protects. What stands on a node that is hit is not meant.
pub fn protect(guardrail: &Named, picture: &Picture, victims: &[Hit]) -> Vec<Answer> {
    victims.iter().filter_map(|hit| protected(guardrail, picture, hit)).collect()
}

fn protected(guardrail: &Named, picture: &Picture, hit: &Hit) -> Option<Answer> {
    let rule = &guardrail.spec.protect;
    let subject = match &hit.namespace {
        Some(namespace) => format!("{} {namespace}/{}", hit.target.kind, hit.target.name),
        None => format!("{} {}", hit.target.kind, hit.target.name),
    };
    let answer = |rule: &'static str, sum: String, way_out: &str| {
        Some(Answer {
            guardrail: guardrail.name.clone(),
            rule,
            subject: subject.clone(),
            sum,
            way_out: way_out.to_owned(),
            says: Says::Refuse,
        })
    };
    if let Some(namespace) = &hit.namespace {
        if namespace == ALWAYS || picture.own_namespaces.contains(namespace) {
            return answer(
                "protect.namespaces",
                format!("{namespace} is protected always"),
                "there is none: what runs the cluster and the game days is not hit",
            );
        }
        if rule.namespaces.contains(namespace) {
            let sum = format!("the namespace {namespace} is protected");
            return answer("protect.namespaces", sum, "choose targets in another namespace");
        }
    }
    let owner = hit.owner.as_ref().map(|owner| &owner.name);
    if let Some(name) = rule.names.iter().find(|name| **name == hit.target.name || Some(*name) == owner) {
        return answer("protect.names", format!("{name} is protected by name"), "narrow the selector so that it does not match");
    }
    if let Some(selector) = rule.labels.iter().find(|selector| selector.matches(&hit.labels)) {
        return answer(
            "protect.labels",
            format!("what has {selector} is protected"),
            "narrow the selector so that it does not match",
        );
    }
    None
}

/// Which candidates are not to be chosen from, and why: protected ones, and those of workloads with only one
/// replica. Asked before choosing, so that the seed does not decide whether a run is refused.
pub fn spared(guardrails: &[Named], picture: &Picture, candidates: &[Hit]) -> Vec<Option<Answer>> {
    let scene = Scene::new(picture, candidates);
    let singles: Vec<Vec<Answer>> = guardrails.iter().map(|guardrail| reach::singles(guardrail, &scene)).collect();
    let of_single = |hit: &Hit| {
        let subject = match (&hit.owner, &hit.namespace) {
            (Some(owner), _) => owner.to_string(),
            (None, Some(namespace)) => format!("Pod {namespace}/{}", hit.target.name),
            (None, None) => return None,
        };
        singles.iter().flatten().find(|answer| answer.subject == subject).cloned()
    };
    let protected = |hit: &Hit| guardrails.iter().find_map(|guardrail| protected(guardrail, picture, hit));
    candidates.iter().map(|hit| protected(hit).or_else(|| of_single(hit))).collect()
}
