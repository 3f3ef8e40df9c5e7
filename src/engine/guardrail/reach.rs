//! How far: caps on what is hit at once, and ready replicas that must be left.

use std::collections::BTreeSet;

use crate::api::{Cap, Percent, ReadyAtLeast, SingleReplica};

use super::answer::{Answer, Says};
use super::picture::{Hit, WorkloadKey};
use super::tally::{Hits, Index, Tally};
use super::{Named, Picture};

/// The same question with and without the victims.
pub struct Scene<'a> {
    pub index: Index<'a>,
    pub victims: Hits<'a>,
    pub others: Hits<'a>,
    pub all: Hits<'a>,
}

impl<'a> Scene<'a> {
    /// Victims that are in force already count once.
    pub fn new(picture: &'a Picture, victims: &'a [Hit]) -> Self {
        let index = Index::new(picture);
        let uids: BTreeSet<&str> = victims.iter().map(|hit| hit.target.uid.as_str()).collect();
        let others = || picture.in_force.iter().filter(|hit| !uids.contains(hit.target.uid.as_str()));
        Scene {
            victims: Hits::of(&index, victims.iter()),
            others: Hits::of(&index, others()),
            all: Hits::of(&index, others().chain(victims)),
            index,
        }
    }

    /// The workloads that the victims are of.
    pub fn workloads(&self) -> BTreeSet<&'a WorkloadKey> {
        self.victims.pods.values().filter_map(|pod| pod.owner).chain(self.victims.scales.keys().copied()).collect()
    }

    fn namespaces(&self) -> BTreeSet<&'a str> {
        let pods = self.victims.pods.values().map(|pod| pod.namespace);
        pods.chain(self.victims.scales.keys().map(|key| key.namespace.as_str())).collect()
    }

    fn pod_nodes(&self, covers: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
        self.victims.pods.values().filter(|pod| covers(pod.namespace)).filter_map(|pod| pod.node).collect()
    }
}

/// What the reach rules of one guardrail say.
pub fn reach(guardrail: &Named, scene: &Scene) -> Vec<Answer> {
    let Scene { index, victims, others, all } = scene;
    let rule = &guardrail.spec.reach;
    let covers = |namespace: &str| guardrail.covers(namespace, index.picture);
    let mut answers = Vec::new();
    answers.extend(singles(guardrail, scene));
    for key in scene.workloads().into_iter().filter(|key| covers(&key.namespace)) {
        if victims.of_workload(key) == 0 {
            continue;
        }
        let tallies = [index.workload(key, others), index.workload(key, all)];
        if let Some(cap) = &rule.workload {
            let alone = victims.of_workload(key);
            answers.push(capped(guardrail, "reach.workload", key.to_string(), "pods", cap, alone, tallies));
        }
        if let Some(ready) = &rule.ready_left {
            answers.push(left(guardrail, key, ready, victims.of_workload(key), tallies));
        }
    }
    if let Some(cap) = &rule.namespace {
        for namespace in scene.namespaces().into_iter().filter(|namespace| covers(namespace)) {
            let alone = victims.of_namespace(namespace);
            let tallies = [index.namespace(namespace, others), index.namespace(namespace, all)];
            answers.push(capped(guardrail, "reach.namespace", format!("namespace {namespace}"), "pods", cap, alone, tallies));
        }
    }
    let alone_on = |here: &dyn Fn(&str) -> bool| {
        victims.pods.values().filter(|pod| covers(pod.namespace) && pod.node.is_some_and(here)).count()
    };
    if let Some(cap) = &rule.node {
        for node in scene.pod_nodes(covers) {
            let here = |name: &str| name == node;
            let tallies = [index.pods_on(here, covers, others), index.pods_on(here, covers, all)];
            answers.push(capped(guardrail, "reach.node", format!("node {node}"), "pods", cap, alone_on(&here), tallies));
        }
    }
    if let Some(cap) = &rule.zone {
        let zones: BTreeSet<&str> = scene.pod_nodes(covers).into_iter().filter_map(|node| index.zone(node)).collect();
        for zone in zones {
            let here = |name: &str| index.zone(name) == Some(zone);
            let tallies = [index.pods_on(here, covers, others), index.pods_on(here, covers, all)];
            answers.push(capped(guardrail, "reach.zone", format!("zone {zone}"), "pods", cap, alone_on(&here), tallies));
        }
        let zones: BTreeSet<&str> = victims.nodes.iter().filter_map(|node| index.zone(node)).collect();
        for zone in zones {
            let here = |name: &str| index.zone(name) == Some(zone);
            let alone = victims.nodes.iter().filter(|node| here(node)).count();
            let tallies = [index.nodes(here, others), index.nodes(here, all)];
            answers.push(capped(guardrail, "reach.zone", format!("zone {zone}"), "nodes", cap, alone, tallies));
        }
    }
    if let Some(cap) = &rule.nodes
        && !victims.nodes.is_empty()
    {
        let tallies = [index.nodes(|_| true, others), index.nodes(|_| true, all)];
        answers.push(capped(guardrail, "reach.nodes", "the cluster".to_owned(), "nodes", cap, victims.nodes.len(), tallies));
    }
    answers.retain(|answer| !answer.sum.is_empty());
    answers
}

/// Which of the victims are of workloads with only one replica.
pub fn singles(guardrail: &Named, scene: &Scene) -> Vec<Answer> {
    match guardrail.spec.reach.single_replica {
        SingleReplica::Allow => Vec::new(),
        SingleReplica::Spare => {
            let covered = |key: &&WorkloadKey| guardrail.covers(&key.namespace, scene.index.picture);
            let workloads = scene.workloads().into_iter().filter(covered);
            bare(guardrail, scene).into_iter().chain(workloads.filter_map(|key| single(guardrail, scene, key))).collect()
        }
    }
}

/// Pods that nothing owns: each is the only one of its kind, and nothing brings it back.
fn bare(guardrail: &Named, scene: &Scene) -> Vec<Answer> {
    let pods = scene.victims.pods.values().filter(|pod| pod.owner.is_none());
    let spared =
        pods.filter(|pod| guardrail.covers(pod.namespace, scene.index.picture) && !is_named(guardrail, pod.namespace, pod.name));
    let answer = |name: &str, namespace: &str| Answer {
        guardrail: guardrail.name.clone(),
        rule: "reach.singleReplica",
        subject: format!("Pod {namespace}/{name}"),
        sum: "nothing owns it: it is the only one, and the guardrail spares those".to_owned(),
        way_out: format!("let a workload own it, or let the platform team name {namespace}/{name} in reach.except"),
        says: Says::Refuse,
    };
    spared.map(|pod| answer(pod.name, pod.namespace)).collect()
}

/// Why a workload that has only one replica is not hit.
fn single(guardrail: &Named, scene: &Scene, key: &WorkloadKey) -> Option<Answer> {
    let grows = scene.victims.of_workload(key) == 0;
    if grows || scene.index.replicas(key, &scene.all) > 1 || is_named(guardrail, &key.namespace, &key.name) {
        return None;
    }
    Some(Answer {
        guardrail: guardrail.name.clone(),
        rule: "reach.singleReplica",
        subject: key.to_string(),
        sum: "it has only 1 replica, and the guardrail spares those".to_owned(),
        way_out: format!(
            "give it a second replica, or let the platform team name {}/{} in reach.except",
            key.namespace, key.name
        ),
        says: Says::Refuse,
    })
}

fn is_named(guardrail: &Named, namespace: &str, name: &str) -> bool {
    guardrail.spec.reach.except.iter().any(|named| named.namespace == namespace && named.name == name)
}

/// How many a cap allows of so many, and where that number comes from.
fn limit(cap: &Cap, whole: usize) -> (usize, String) {
    let targets = cap.targets.map(|targets| usize::try_from(targets).unwrap_or(0));
    let part = |percent: Percent| format!("{percent} of {whole} is {}", percent.of(whole));
    match (targets, cap.percent) {
        (Some(targets), Some(percent)) => {
            (targets.min(percent.of(whole)), format!(" (the smaller of {targets} and {})", part(percent)))
        }
        (Some(targets), None) => (targets, String::new()),
        (None, Some(percent)) => (percent.of(whole), format!(" ({})", part(percent))),
        // Admission has refused an empty cap; one that came through all the same allows nothing.
        (None, None) => (0, " (the cap names no number)".to_owned()),
    }
}

fn capped(
    guardrail: &Named,
    rule: &'static str,
    subject: String,
    what: &str,
    cap: &Cap,
    alone: usize,
    [others, all]: [Tally; 2],
) -> Answer {
    let (allowed, why) = limit(cap, all.whole);
    let already = match others.affected {
        0 => String::new(),
        already => format!(" ({already} hit, missing or not ready already)"),
    };
    let sum = match alone {
        // It only grows.
        0 => String::new(),
        1.. => format!("{} of {} {what} at once{already}; the guardrail allows {allowed}{why}", all.affected, all.whole),
    };
    let (says, way_out) = if alone == 0 || all.affected <= allowed {
        (Says::Allow, String::new())
    } else if alone > allowed {
        let way_out = match allowed {
            0 => format!("hit no {what} of {subject}, or let the platform team allow more"),
            1.. => format!("choose at most {allowed} {what} of {subject}"),
        };
        (Says::Refuse, way_out)
    } else {
        (Says::Wait, format!("wait until what is hit, missing or not ready in {subject} is back"))
    };
    Answer { guardrail: guardrail.name.clone(), rule, subject, sum, way_out, says }
}

fn left(guardrail: &Named, key: &WorkloadKey, ready: &ReadyAtLeast, alone: usize, [others, all]: [Tally; 2]) -> Answer {
    let (need, why) = match (ready.count, ready.percent) {
        (Some(count), _) => (usize::try_from(count).unwrap_or(0), String::new()),
        (None, Some(percent)) => {
            let need = (all.whole * usize::from(percent.get())).div_ceil(100);
            (need, format!(" ({percent} of {}, rounded up)", all.whole))
        }
        (None, None) => (all.whole, " (the rule names no number)".to_owned()),
    };
    let already = match others.affected {
        0 => String::new(),
        already => format!(" ({already} hit, missing or not ready already)"),
    };
    let sum =
        format!("{} of {} ready replicas would remain{already}; the guardrail asks for {need}{why}", all.ready_left, all.whole);
    let (says, way_out) = if all.ready_left >= need {
        (Says::Allow, String::new())
    } else if all.whole.saturating_sub(alone) < need {
        let most = all.whole.saturating_sub(need);
        let way_out = match most {
            0 => format!("give {key} more replicas, or hit none of it"),
            1.. => format!("choose at most {most} pods of {key}, or give it more replicas"),
        };
        (Says::Refuse, way_out)
    } else {
        (Says::Wait, format!("wait until what is hit, missing or not ready of {key} is back"))
    };
    Answer { guardrail: guardrail.name.clone(), rule: "reach.readyLeft", subject: key.to_string(), sum, way_out, says }
}
