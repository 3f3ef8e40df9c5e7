//! The fault catalogue: for each fault who its candidates are, what is done to a target, how it is known that
//! it bit, what brings it back, and how it is known that nothing is left.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::{TargetKind, TargetStatus, Undo, WorkloadKind, WorkloadRef};

use super::admit::{Candidates, Kind, Planned, ScaleTo};
use super::held;
use super::{NodeSeen, Observation, Outcome, PodSeen, TargetId, What, WorkloadSeen};

/// Somebody who may be hit, with all that an order needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub target: TargetId,
    pub node: Option<String>,
    /// Pods or nodes that it takes away.
    pub weight: usize,
    pub undo: Option<Undo>,
    pub labels: BTreeMap<String, String>,
}

/// Those who may be hit now.
///
/// # Errors
/// Why the fault cannot be done to the workload that is named.
pub fn candidates(planned: &Planned, seen: &Observation) -> Result<Vec<Candidate>, String> {
    match &planned.candidates {
        Candidates::Pods(selector) => {
            // A list that lags may still show a pod that is known to be gone.
            let there = |pod: &&PodSeen| is_up(pod) && !seen.gone.contains(&pod.uid);
            let ready = seen.pods.iter().filter(|pod| selector.matches(&pod.labels)).filter(there);
            Ok(ready.map(pod).collect())
        }
        Candidates::Nodes(selector) => {
            let free =
                |node: &&NodeSeen| selector.matches(&node.labels) && node.ready && node.schedulable && node.held_by.is_none();
            Ok(seen.nodes.iter().filter(free).map(node).collect())
        }
        Candidates::Workload(reference) => match seen.workloads.get(reference) {
            None => Ok(Vec::new()),
            Some(None) => Err(format!("there is no {reference}")),
            Some(Some(found)) => workload(planned, reference, found).map(|candidate| vec![candidate]),
        },
    }
}

/// Who is looked for, in words.
pub fn describe(candidates: &Candidates) -> String {
    match candidates {
        Candidates::Pods(selector) => format!("ready pods with {selector}"),
        Candidates::Nodes(selector) => format!("ready, schedulable nodes with {selector}"),
        Candidates::Workload(reference) => reference.to_string(),
    }
}

/// Whether a pod is up: ready, and not on its way out.
pub fn is_up(pod: &PodSeen) -> bool {
    pod.ready && !pod.terminating
}

fn pod(seen: &PodSeen) -> Candidate {
    Candidate {
        target: TargetId { kind: TargetKind::Pod, name: seen.name.clone(), uid: seen.uid.clone() },
        node: seen.node.clone(),
        weight: 1,
        undo: None,
        labels: seen.labels.clone(),
    }
}

fn node(seen: &NodeSeen) -> Candidate {
    Candidate {
        target: TargetId { kind: TargetKind::Node, name: seen.name.clone(), uid: seen.uid.clone() },
        node: None,
        weight: 1,
        undo: Some(Undo { replicas: None, set_replicas: None, schedulable: Some(true) }),
        labels: seen.labels.clone(),
    }
}

fn workload(planned: &Planned, reference: &WorkloadRef, seen: &WorkloadSeen) -> Result<Candidate, String> {
    if let Some(holder) = &seen.held_by {
        return Err(format!("{reference} is held by another run (uid {holder})"));
    }
    let to = match &planned.kind {
        Kind::Scale(ScaleTo::Replicas(replicas)) => *replicas,
        Kind::Scale(ScaleTo::Percent(percent)) => {
            i32::try_from(percent.of(usize::try_from(seen.replicas).unwrap_or(0))).unwrap_or(0)
        }
        Kind::PodKill { .. } | Kind::PodEvict { .. } | Kind::Cordon | Kind::Hold(_) => seen.replicas,
    };
    if to == seen.replicas {
        return Err(format!("{reference} already has {to} replicas: nothing would change"));
    }
    let kind = match reference.kind {
        WorkloadKind::Deployment => TargetKind::Deployment,
        WorkloadKind::StatefulSet => TargetKind::StatefulSet,
    };
    Ok(Candidate {
        target: TargetId { kind, name: reference.name.clone(), uid: seen.uid.clone() },
        node: None,
        // Growing takes nothing away, but it is one thing done.
        weight: usize::try_from(seen.replicas - to).unwrap_or(1).max(1),
        undo: Some(Undo { replicas: Some(seen.replicas), set_replicas: Some(to), schedulable: None }),
        labels: seen.pod_labels.clone(),
    })
}

/// Whether something with these labels is among an experiment's candidates.
pub fn is_among(candidates: &Candidates, target: &Candidate, seen: &Observation) -> bool {
    let is_node = target.target.kind == TargetKind::Node;
    match candidates {
        Candidates::Pods(selector) => !is_node && selector.matches(&target.labels),
        Candidates::Nodes(selector) => is_node && selector.matches(&target.labels),
        Candidates::Workload(reference) => match seen.workloads.get(reference) {
            Some(Some(workload)) => {
                !is_node
                    && !workload.pod_labels.is_empty()
                    && workload.pod_labels.iter().all(|(key, value)| target.labels.get(key) == Some(value))
            }
            Some(None) | None => false,
        },
    }
}

pub fn id(target: &TargetStatus) -> TargetId {
    TargetId { kind: target.kind, name: target.name.clone(), uid: target.uid.clone() }
}

/// What injects a fault into a recorded target. `None`: nothing can be said just now.
pub fn inject(kind: &Kind, target: &TargetStatus, run_uid: &str, seen: &Observation, now: Timestamp) -> Option<What> {
    Some(match kind {
        Kind::PodKill { grace_period, every: _ } => What::Kill { grace_period: *grace_period },
        Kind::PodEvict { every: _ } => What::Evict,
        Kind::Scale(_) => {
            let (from, to) = replicas(target);
            What::Scale { from, to }
        }
        Kind::Cordon => What::Cordon,
        Kind::Hold(held) => What::Order(Box::new(held::order(held, target, run_uid, seen, now)?)),
    })
}

/// What brings a recorded target back. A pod that was deleted cannot be brought back: its workload makes
/// another.
pub fn revert(kind: &Kind, target: &TargetStatus, run_uid: &str) -> Option<What> {
    match kind {
        Kind::PodKill { .. } | Kind::PodEvict { .. } => None,
        Kind::Scale(_) => {
            let (back, set) = replicas(target);
            Some(What::Unscale { set, back })
        }
        Kind::Cordon => Some(What::Uncordon),
        Kind::Hold(held) => Some(What::Revoke(Box::new(held::revocation(held, target, run_uid)))),
    }
}

/// The replicas before, and those that the fault sets.
fn replicas(target: &TargetStatus) -> (i32, i32) {
    let undo = target.undo.as_ref();
    let before = undo.and_then(|undo| undo.replicas);
    let set = undo.and_then(|undo| undo.set_replicas);
    let missing = "a scale target is recorded with both its replicas";
    (before.expect(missing), set.expect(missing))
}

/// What is seen of a target.
pub enum Sight<'a> {
    Pod(&'a PodSeen),
    Node(&'a NodeSeen),
    Workload(&'a WorkloadSeen),
    /// It is known that this uid does not exist any more.
    Gone,
    /// Nothing is known just now.
    Unknown,
}

pub fn sight<'a>(target: &TargetStatus, seen: &'a Observation) -> Sight<'a> {
    if !seen.synced {
        return Sight::Unknown;
    }
    let reference = |kind| WorkloadRef { kind, name: target.name.clone() };
    let workload = |kind| match seen.workloads.get(&reference(kind)) {
        Some(Some(workload)) if workload.uid == target.uid => Sight::Workload(workload),
        Some(_) => Sight::Gone,
        None => Sight::Unknown,
    };
    match target.kind {
        TargetKind::Pod if seen.gone.contains(&target.uid) => Sight::Gone,
        TargetKind::Pod => seen.pods.iter().find(|pod| pod.uid == target.uid).map_or(Sight::Unknown, Sight::Pod),
        TargetKind::Node => seen.nodes.iter().find(|node| node.uid == target.uid).map_or(Sight::Gone, Sight::Node),
        TargetKind::Deployment => workload(WorkloadKind::Deployment),
        TargetKind::StatefulSet => workload(WorkloadKind::StatefulSet),
    }
}

/// Whether the fault has taken effect, as far as is seen.
pub enum Bite {
    Yes(String),
    /// Not yet, and what is seen instead.
    NotYet(String),
    /// It cannot any more: the target is gone, or somebody else changed it.
    Lost(String),
    /// Its node did nothing.
    Refused(String),
}

pub fn bite(kind: &Kind, target: &TargetStatus, run_uid: &str, seen: &Observation) -> Bite {
    if let Kind::Hold(held) = kind {
        return held::bite(held, target, run_uid, seen);
    }
    let unknown = || Bite::NotYet("not seen just now".to_owned());
    match (kind, sight(target, seen)) {
        (Kind::PodKill { .. } | Kind::PodEvict { .. }, Sight::Gone) => Bite::Yes(format!("uid {} is gone", target.uid)),
        (Kind::PodKill { .. } | Kind::PodEvict { .. }, Sight::Pod(pod)) if pod.terminating => {
            Bite::NotYet("not bitten yet: marked for deletion, and still there".to_owned())
        }
        (Kind::PodKill { .. } | Kind::PodEvict { .. }, Sight::Pod(_)) => Bite::NotYet("not bitten yet: still there".to_owned()),
        (Kind::Scale(_), Sight::Workload(workload)) => scaled(target, run_uid, workload),
        (Kind::Cordon, Sight::Node(node)) => match &node.held_by {
            Some(holder) if holder != run_uid => Bite::Lost(format!("held by another run (uid {holder})")),
            Some(_) if !node.schedulable => Bite::Yes("read back unschedulable".to_owned()),
            Some(_) => Bite::Lost("somebody else made it schedulable".to_owned()),
            None => Bite::NotYet("not bitten yet: schedulable".to_owned()),
        },
        (Kind::Scale(_) | Kind::Cordon | Kind::Hold(_), Sight::Gone) => Bite::Lost("the target is gone".to_owned()),
        (_, Sight::Unknown) => unknown(),
        (
            Kind::PodKill { .. } | Kind::PodEvict { .. } | Kind::Scale(_) | Kind::Cordon | Kind::Hold(_),
            Sight::Pod(_) | Sight::Node(_) | Sight::Workload(_),
        ) => unknown(),
    }
}

fn scaled(target: &TargetStatus, run_uid: &str, workload: &WorkloadSeen) -> Bite {
    let (_, set) = replicas(target);
    match &workload.held_by {
        Some(holder) if holder != run_uid => Bite::Lost(format!("held by another run (uid {holder})")),
        Some(_) if workload.replicas != set => Bite::Lost(format!("somebody else set {} replicas", workload.replicas)),
        Some(_) if workload.observed == set => Bite::Yes(format!("{set} replicas observed")),
        Some(_) => Bite::NotYet(format!("not bitten yet: {} replicas observed, {set} wanted", workload.observed)),
        None => Bite::NotYet(format!("not bitten yet: {} replicas asked for", workload.replicas)),
    }
}

/// Whether a fault that was ordered is still in effect, or may still come to be; if not, what happened.
pub fn lost(kind: &Kind, target: &TargetStatus, run_uid: &str, seen: &Observation, now: Timestamp) -> Option<String> {
    let early = kind.held().and_then(|held| held::ended_early(held, target, run_uid, seen, now));
    let (what, why) = match (early, bite(kind, target, run_uid, seen)) {
        (Some(why), _) | (None, Bite::Lost(why)) => ("target lost", why),
        (None, Bite::Refused(why)) => ("refused on the node", why),
        (None, Bite::NotYet(_)) if target.bite.is_some() && taken_off(target, seen) => {
            ("target lost", "somebody else took the fault off".to_owned())
        }
        (None, Bite::Yes(_) | Bite::NotYet(_)) => return None,
    };
    Some(format!("{what}: {}: {why}", id(target)))
}

/// Whether a held object does not carry our label any more.
fn taken_off(target: &TargetStatus, seen: &Observation) -> bool {
    match sight(target, seen) {
        Sight::Node(node) => node.held_by.is_none(),
        Sight::Workload(workload) => workload.held_by.is_none(),
        Sight::Pod(_) | Sight::Gone | Sight::Unknown => false,
    }
}

/// Read-back proof that nothing of the fault is left on a target; `None` while there is none.
///
/// `settled`: no order to this target can still be on its way. Where something is to be undone, a look that
/// shows nothing of ours is not enough: it may be older than the fault. The undoing must have been accepted.
pub fn clean(kind: &Kind, target: &TargetStatus, run_uid: &str, seen: &Observation, settled: bool) -> Option<String> {
    if let Kind::Hold(held) = kind {
        return held::clean(held, target, run_uid, seen);
    }
    let last = seen.outcomes.get(&target.uid);
    let accepted = last.is_some_and(|performed| performed.outcome == Outcome::Done);
    let undone = settled && accepted && last.is_some_and(|performed| performed.reverting);
    match (kind, sight(target, seen)) {
        (Kind::PodKill { .. } | Kind::PodEvict { .. }, Sight::Gone) => {
            Some("the pod is gone, and nothing else was changed".to_owned())
        }
        (Kind::PodKill { .. } | Kind::PodEvict { .. }, Sight::Pod(pod)) => {
            (settled && !accepted && !pod.terminating).then(|| "the pod is still there, and not marked for deletion".to_owned())
        }
        (Kind::Scale(_) | Kind::Cordon | Kind::Hold(_), Sight::Gone) => Some("the target is gone".to_owned()),
        (Kind::Scale(_), Sight::Workload(workload)) => {
            let ours = workload.held_by.as_deref() == Some(run_uid);
            (undone && !ours).then(|| {
                let (before, _) = replicas(target);
                if workload.replicas == before {
                    format!("read back: {before} replicas, as before")
                } else {
                    format!("read back: not held; somebody else set {} replicas ({before} before)", workload.replicas)
                }
            })
        }
        (Kind::Cordon, Sight::Node(node)) => {
            let ours = node.held_by.as_deref() == Some(run_uid);
            (undone && !ours).then(|| {
                if node.schedulable {
                    "read back schedulable".to_owned()
                } else {
                    "read back: not held; somebody else made it unschedulable".to_owned()
                }
            })
        }
        (
            Kind::PodKill { .. } | Kind::PodEvict { .. } | Kind::Scale(_) | Kind::Cordon | Kind::Hold(_),
            Sight::Unknown | Sight::Pod(_) | Sight::Node(_) | Sight::Workload(_),
        ) => None,
    }
}
