//! Disruption budgets: a fault that makes a pod unavailable needs headroom in every one that covers it, counted
//! with all other faults in force, not only evictions.

use std::collections::BTreeMap;

use crate::api::BudgetRule;

use super::Named;
use super::answer::{Answer, Says};
use super::picture::{BudgetShown, PodShown, WorkloadKey};
use super::reach::Scene;
use super::tally::Hits;

pub fn budgets(guardrail: &Named, scene: &Scene) -> Vec<Answer> {
    match guardrail.spec.budgets {
        BudgetRule::Ignore => Vec::new(),
        BudgetRule::Honour => {
            let covered = |budget: &&BudgetShown| guardrail.covers(&budget.namespace, scene.index.picture);
            scene.index.picture.budgets.iter().filter(covered).filter_map(|budget| ask(guardrail, budget, scene)).collect()
        }
    }
}

fn covers(budget: &BudgetShown, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    budget.namespace == namespace && budget.selector.as_ref().is_some_and(|selector| selector.matches(labels))
}

/// How many of a budget's pods these hits take away, those included that are gone already.
fn taken(budget: &BudgetShown, scene: &Scene, hits: &Hits) -> usize {
    let pods = hits.pods.values().filter(|pod| pod.takes_away && covers(budget, pod.namespace, pod.labels)).count();
    pods + scaled(budget, scene, hits).map(|(_, (from, to))| from.saturating_sub(to)).sum::<usize>()
}

/// Replicas that a smaller number of them has not yet cost.
fn shrinking(budget: &BudgetShown, scene: &Scene, hits: &Hits) -> usize {
    scaled(budget, scene, hits).map(|(key, (_, to))| scene.index.live_count(key).saturating_sub(to)).sum()
}

fn scaled<'a>(
    budget: &'a BudgetShown,
    scene: &'a Scene,
    hits: &'a Hits,
) -> impl Iterator<Item = (&'a WorkloadKey, (usize, usize))> {
    let scaled = hits.scales.iter().filter(|(key, _)| {
        let workload = scene.index.picture.workloads.get(**key);
        workload.is_some_and(|workload| covers(budget, &key.namespace, &workload.pod_labels))
    });
    scaled.map(|(key, replicas)| (*key, *replicas))
}

fn healthy(budget: &BudgetShown, scene: &Scene, hits: &Hits) -> usize {
    let hit = |pod: &PodShown| hits.pods.get(pod.uid.as_str()).is_some_and(|hit| hit.takes_away);
    let pods = scene.index.picture.pods.iter().filter(|pod| pod.ready && !pod.terminating);
    let healthy = pods.filter(|pod| covers(budget, &pod.namespace, &pod.labels) && !hit(pod)).count();
    healthy.saturating_sub(shrinking(budget, scene, hits))
}

/// `None`: the victims are not the budget's.
fn ask(guardrail: &Named, budget: &BudgetShown, scene: &Scene) -> Option<Answer> {
    let subject = format!("PodDisruptionBudget {}/{}", budget.namespace, budget.name);
    let victims = taken(budget, scene, &scene.victims);
    if victims == 0 {
        return None;
    }
    let answer = |sum: String, way_out: String, says: Says| {
        Some(Answer { guardrail: guardrail.name.clone(), rule: "budgets", subject: subject.clone(), sum, way_out, says })
    };
    if !budget.counted {
        return answer(
            "its controller has not counted it yet as it is now".to_owned(),
            "wait until it has".to_owned(),
            Says::Wait,
        );
    }
    let desired = budget.desired_healthy;
    let remain = healthy(budget, scene, &scene.all);
    let before = healthy(budget, scene, &scene.others);
    let sum = format!(
        "{remain} of {} pods would remain healthy ({before} are without these); the budget asks for {desired}",
        budget.expected
    );
    if remain >= desired {
        return answer(sum, String::new(), Says::Allow);
    }
    if budget.expected.saturating_sub(victims) < desired {
        let most = budget.expected.saturating_sub(desired);
        let way_out = match most {
            0 => "it allows no disruption at all: change the budget, or hit others".to_owned(),
            1.. => format!("choose at most {most} of its pods"),
        };
        return answer(sum, way_out, Says::Refuse);
    }
    answer(sum, "wait until more of its pods are healthy".to_owned(), Says::Wait)
}
