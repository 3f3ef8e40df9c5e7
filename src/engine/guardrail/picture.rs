use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::api::{Selector, TargetKind};
use crate::engine::TargetId;

/// What guardrails look at: the cluster, and everything in force in it, over all runs.
///
/// It may be a moment old. What is missing from it is never taken for healthy: a replica that is not seen
/// counts as missing, an alert without an answer as one that may fire.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Whether everything below has been read at all.
    pub synced: bool,
    /// Every namespace with its labels.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Where the operator and the agents live: never hit.
    pub own_namespaces: BTreeSet<String>,
    pub workloads: BTreeMap<WorkloadKey, WorkloadShown>,
    /// All pods but those that have ended for good (Succeeded, Failed).
    pub pods: Vec<PodShown>,
    pub nodes: Vec<NodeShown>,
    pub budgets: Vec<BudgetShown>,
    pub autoscalers: Vec<AutoscalerShown>,
    /// Recorded by any run and not known to be over: not read back clean, or killed and not replaced.
    pub in_force: Vec<Hit>,
    /// The last answer to each alert's query, by guardrail and alert.
    pub alerts: BTreeMap<(String, String), AlertShown>,
}

/// What owns pods: a Deployment (not its ReplicaSets), a StatefulSet, a DaemonSet, a Job, and so on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadKey {
    pub namespace: String,
    pub kind: String,
    pub name: String,
}

impl std::fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadShown {
    /// Replicas asked for.
    pub replicas: usize,
    /// The labels of the pods that it makes.
    pub pod_labels: BTreeMap<String, String>,
    /// Its rollout under way, in words. A replica that is only being replaced, or a changed number of them, is
    /// no rollout.
    pub rolling: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodShown {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub node: Option<String>,
    pub owner: Option<WorkloadKey>,
    pub ready: bool,
    /// Marked for deletion: it counts as gone.
    pub terminating: bool,
    /// By digest where the node said so.
    pub images: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeShown {
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    pub ready: bool,
    pub schedulable: bool,
}

/// A disruption budget, as its controller last counted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetShown {
    pub namespace: String,
    pub name: String,
    /// Absent: it covers nobody.
    pub selector: Option<Selector>,
    /// `status.desiredHealthy`.
    pub desired_healthy: usize,
    /// `status.expectedPods`.
    pub expected: usize,
    /// Whether the controller has seen the budget as it is now.
    pub counted: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoscalerShown {
    pub namespace: String,
    pub name: String,
    pub workload: WorkloadKey,
    pub current: usize,
    pub max: usize,
}

/// The answer to an alert's query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertShown {
    /// When it was asked.
    pub at: Timestamp,
    /// What it gave, in words. `None`: nothing, it does not fire.
    pub firing: Option<String>,
}

/// One fault on one target, ordered or wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub target: TargetId,
    /// Nodes have none.
    pub namespace: Option<String>,
    /// A pod's node, as recorded.
    pub node: Option<String>,
    /// What owns a pod, as recorded; a workload itself.
    pub owner: Option<WorkloadKey>,
    /// A pod's, a node's, or those of a workload's pods.
    pub labels: BTreeMap<String, String>,
    pub effect: Effect,
}

/// What a fault does to its target, as far as guardrails care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is still there, and not what it was: slow, or under pressure.
    Disturbs,
    /// A pod cannot serve: killed, evicted, paused, cut off.
    TakesAway,
    /// A workload is set from so many replicas to so many.
    Scales { from: usize, to: usize },
    /// A node takes no further pods; those on it stay.
    Unschedulable,
    /// A node and all pods on it are away.
    NodeAway,
}

impl Hit {
    /// How many pods a workload loses by it.
    pub fn shrinks(&self) -> usize {
        match self.effect {
            Effect::Scales { from, to } => from.saturating_sub(to),
            Effect::Disturbs | Effect::TakesAway | Effect::Unschedulable | Effect::NodeAway => 0,
        }
    }

    /// A workload that only grows loses nothing.
    pub fn only_grows(&self) -> bool {
        matches!(self.effect, Effect::Scales { from, to } if to >= from)
    }

    pub fn is_pod(&self) -> bool {
        self.target.kind == TargetKind::Pod
    }

    pub fn is_node(&self) -> bool {
        self.target.kind == TargetKind::Node
    }
}

impl Picture {
    pub fn pod(&self, uid: &str) -> Option<&PodShown> {
        self.pods.iter().find(|pod| pod.uid == uid)
    }

    /// A fault on one of these pods.
    pub fn hit_pod(pod: &PodShown, effect: Effect) -> Hit {
        Hit {
            target: TargetId { kind: TargetKind::Pod, name: pod.name.clone(), uid: pod.uid.clone() },
            namespace: Some(pod.namespace.clone()),
            node: pod.node.clone(),
            owner: pod.owner.clone(),
            labels: pod.labels.clone(),
            effect,
        }
    }

    /// A fault on one of these nodes.
    pub fn hit_node(node: &NodeShown, effect: Effect) -> Hit {
        Hit {
            target: TargetId { kind: TargetKind::Node, name: node.name.clone(), uid: node.uid.clone() },
            namespace: None,
            node: None,
            owner: None,
            labels: node.labels.clone(),
            effect,
        }
    }
}
