//! Decisions, and nothing else: no I/O, no clock, no randomness but the seed, no async.
//!
//! [`step`] is a total function of what *is*: the run with its record, and what is seen of the world. It is
//! called again whenever either may have changed, and calling it twice changes nothing. What it wants done
//! comes back as values.

pub mod admit;
pub mod bound;
mod experiment;
mod fault;
pub mod gate;
pub mod guard;
pub mod guarded;
pub mod guardrail;
pub mod held;
pub mod liveness;
pub mod permission;
pub mod problem;
pub mod record;
mod run;
pub mod schedule;
pub mod select;
pub mod steady;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::api::{
    Cord, Duration, Entry, FaultKind, GameDayRunSpec, GameDayRunStatus, InjectionPhase, People, Stop, TargetKind, WorkloadRef,
};

pub use admit::Plan;
pub use experiment::broken;
pub use guarded::Guarded;
pub use guardrail::WorkloadKey;
pub use liveness::Liveness;
pub use permission::Permission;
pub use problem::{Problem, Problems};
pub use run::step;
pub use steady::{Sample, Seen, Track};

/// Limits of the engine, each with its reason.
pub mod limits {
    use crate::api::Duration;

    /// An experiment waits so long in Arming for answers (permissions, room in the blast radius) before it is
    /// given up. A healthy API server answers in milliseconds; half a minute outlives its restart.
    pub const ARMING: Duration = Duration::from_secs(30);
    /// Reverting that is not confirmed after this long is reported as not confirmed (P8). Four times the grace
    /// period that Kubernetes gives a pod by default. What is still held then stays labelled, and the sweep
    /// goes on trying.
    pub const REVERTING: Duration = Duration::from_secs(120);
    /// A fault read back clean so long after its latest end was held longer than the record says, which is a
    /// doubt: an API fault cannot be undone while the API server is away. Five tries at the undo.
    pub const LATE: Duration = Duration::from_secs(5);
    /// A repeated fault records at most so many targets over all its rounds, and one more round: with their proofs
    /// they take half of the 1.5 MiB that an object in etcd may have.
    pub const TARGETS_IN_ALL: usize = 1_000;
    /// A refused or failed action is tried again after this long.
    pub const RETRY: Duration = Duration::from_millis(1_000);
    /// While a fault is held, guardrails are asked again this often: what ends it must show within two seconds.
    pub const GUARD: Duration = Duration::from_millis(1_000);
    /// Changes that do not decide anything (a sample, a bite among many) are recorded this often at most.
    pub const REFRESH: Duration = Duration::from_secs(2);
}

/// Which run: what its orders carry and its labels say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A run as the engine sees it: the frozen spec, what admission made of it, and the record.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: RunId,
    pub generation: i64,
    pub spec: GameDayRunSpec,
    /// What is run, or every reason why it cannot be.
    pub plan: Result<Plan, Problems>,
    pub status: GameDayRunStatus,
}

impl Run {
    pub fn new(id: RunId, generation: i64, spec: GameDayRunSpec, status: GameDayRunStatus) -> Self {
        let plan = admit::admit(&spec.game_day);
        Run { id, generation, spec, plan, status }
    }
}

/// What is seen of the world, as far as it concerns one run.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// The run is being deleted, or is gone.
    pub deleted: bool,
    /// Somebody asked for the run's end, as seen now; the run's own copy may be older.
    pub stop: Option<Stop>,
    /// A cord that covers the run's namespace.
    pub cord: Option<Pulled>,
    /// Pods that any selector of the plan matches, in the run's namespace.
    pub pods: Vec<PodSeen>,
    /// Uids of recorded pods that are gone: their deletion was seen, or a read of their own has confirmed it.
    pub gone: BTreeSet<String>,
    /// All nodes, where the plan touches nodes.
    pub nodes: Vec<NodeSeen>,
    /// The workloads that the plan names as targets. Absent: not read yet. `None`: it does not exist.
    pub workloads: BTreeMap<WorkloadRef, Option<WorkloadSeen>>,
    /// Whether pods, nodes and workloads have been read at all.
    pub synced: bool,
    /// What the cluster says of the permissions of [`Plan::permissions`]. Absent: not answered yet.
    pub permissions: BTreeMap<Permission, Answer>,
    /// The probes, in the order of the spec.
    pub probes: Vec<Track>,
    /// The last outcome of an action on a target, by uid. Filled in by the turn, lost when it restarts.
    pub outcomes: BTreeMap<String, Performed>,
    /// This run's orders to nodes, by name.
    pub injections: BTreeMap<String, InjectionSeen>,
    /// Uids of pods with a network fault in force that is another run's.
    pub networks: BTreeSet<String>,
    /// Agents, by node.
    pub agents: BTreeMap<String, AgentSeen>,
    /// What guardrails are asked with. Absent where there are none: in a rehearsal.
    pub guarded: Option<Guarded>,
    /// Approvals, answers and notes, as seen now; the run's own copy may be older.
    pub people: People,
    pub slot: SlotSeen,
}

/// Whether a run that waits has its place among those under way, in every guardrail that covers it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SlotSeen {
    /// Nobody has asked for one yet.
    #[default]
    Unasked,
    /// For whom, and since when.
    Waiting(String),
    Taken,
}

/// An order to a node, as the node last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectionSeen {
    pub phase: InjectionPhase,
    pub bite: Option<String>,
    pub clean: Option<String>,
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentSeen {
    /// It answers.
    Ready {
        /// Those that it was made for: it has no rights for others.
        faults: BTreeSet<FaultKind>,
        /// Those that its node cannot hold, and why.
        cannot: BTreeMap<String, String>,
    },
    Starting(String),
    Cannot(String),
}

/// A pulled cord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub name: String,
    pub reason: String,
    pub by: Option<String>,
}

impl Pulled {
    /// The first of these cords that covers a namespace, by name.
    pub fn over<'a>(cords: impl IntoIterator<Item = &'a Cord>, namespace: &str) -> Option<Pulled> {
        cords
            .into_iter()
            .filter(|cord| cord.spec.covers(namespace))
            .map(|cord| Pulled {
                name: cord.metadata.name.clone().unwrap_or_default(),
                reason: cord.spec.reason.clone(),
                by: cord.spec.by.clone(),
            })
            .min_by(|a, b| a.name.cmp(&b.name))
    }
}

impl std::fmt::Display for Pulled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the cord {} is pulled", self.name)?;
        if let Some(by) = &self.by {
            write!(f, " by {by}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    pub name: String,
    pub uid: String,
    pub node: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub ready: bool,
    /// Marked for deletion.
    pub terminating: bool,
    /// Names and ids of running containers, in the order of the pod's spec.
    pub containers: Vec<(String, String)>,
    /// Liveness probes, by container.
    pub liveness: BTreeMap<String, Liveness>,
    pub host_network: bool,
    /// What owns it: not its ReplicaSet, but what owns that.
    pub owner: Option<WorkloadKey>,
    /// By digest where the node said so.
    pub images: BTreeSet<String>,
    /// It has ended for good: Succeeded or Failed.
    pub ended: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub ready: bool,
    pub schedulable: bool,
    /// The uid of the run that holds it, from its label.
    pub held_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadSeen {
    pub uid: String,
    /// Replicas asked for.
    pub replicas: i32,
    /// Replicas that exist, as its controller last counted them.
    pub observed: i32,
    pub ready: i32,
    /// The labels of the pods that it makes.
    pub pod_labels: BTreeMap<String, String>,
    /// Its rollout under way, in words.
    pub rolling: Option<String>,
    /// The uid of the run that holds it, from its label.
    pub held_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Allowed,
    Denied(String),
}

/// One thing to do, exact: nothing left to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub experiment: String,
    pub target: TargetId,
    pub what: What,
    /// The fault is over by then.
    pub latest_end: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId {
    pub kind: TargetKind,
    pub name: String,
    pub uid: String,
}

impl std::fmt::Display for TargetId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// What an action does to its target. All are idempotent, and none touches an object with another uid.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Delete the pod.
    Kill { grace_period: Option<Duration> },
    /// Ask the Eviction API.
    Evict,
    /// Set replicas from what was seen to what is wanted, and label the workload as held, in one write that
    /// fails if either changed meanwhile.
    Scale { from: i32, to: i32 },
    /// Mark unschedulable and label as held, in one write.
    Cordon,
    /// Take the label off; set `back` where the replicas are still what the fault set.
    Unscale { set: i32, back: i32 },
    /// Take the label off and mark schedulable, if it is held by this run.
    Uncordon,
    /// Create the Injection, unless there is one of this name.
    Order(Box<held::Order>),
    /// Set `revert` on the Injection, or create it so, where it may still be on its way.
    Revoke(Box<held::Order>),
}

impl Action {
    /// Reverting is performed before it is recorded; injecting after (P1).
    pub fn reverts(&self) -> bool {
        match self.what {
            What::Kill { .. } | What::Evict | What::Scale { .. } | What::Cordon | What::Order(_) => false,
            What::Unscale { .. } | What::Uncordon | What::Revoke(_) => true,
        }
    }
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The API server accepted it, or it was done already.
    Done,
    /// It was understood and refused: a disruption budget, a missing right, a target that is another's.
    Refused(String),
    /// No answer, or an error: whether it was done is not known.
    Failed(String),
}

/// An outcome with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Performed {
    pub at: Timestamp,
    pub reverting: bool,
    pub outcome: Outcome,
}

/// What to do now.
#[derive(Clone, Debug)]
pub struct Step {
    pub state: GameDayRunStatus,
    /// What happened, to be appended to the record.
    pub entries: Vec<Entry>,
    pub actions: Vec<Action>,
    /// Nodes on which an agent must answer, and the faults that it must be able to hold.
    pub nodes: BTreeMap<String, BTreeSet<FaultKind>>,
    /// Whether the state must be recorded before anything else; otherwise it may wait for
    /// [`limits::REFRESH`].
    pub urgent: bool,
    /// The run waits for nothing but a slot: take one for it.
    pub wants_slot: bool,
    /// Step again at this time at the latest. `None`: the run is finished, and nothing is left to do.
    pub wake: Option<Timestamp>,
}
