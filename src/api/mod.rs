//! The words as data: the resources that people write and read, and the small values they are made of.
//!
//! What a value cannot be is said here once, as a constant sentence, and used twice: by the parser (so that
//! `gameday check` says it with a line and a column) and by the schema's CEL rules (so that the API server
//! says the same). Nothing here reads a clock, a network or a file.

#[macro_use]
mod small;

mod bytes;
mod cord;
mod duration;
mod fault;
mod gameday;
mod guardrail;
mod injection;
mod network;
mod node;
mod people;
mod percent;
mod probe;
mod run;
mod selector;
mod window;
mod words;

pub use bytes::{Bytes, Size};
pub use cord::{Cord, CordSpec};
pub use duration::Duration;
pub use fault::{Choose, Cordon, Fault, FaultPart, PodEvict, PodKill, Scale, Targets, WorkloadKind, WorkloadRef};
pub use gameday::{
    BlastRadius, Condition, ConditionStatus, Experiment, GameDay, GameDaySpec, GameDayStatus, IfRunning, MissedStart, OnBreach,
    OnRestart, Schedule,
};
pub use guardrail::{
    AlertQuery, AlertRule, ApprovalRule, BudgetRule, Cap, FaultKind, FaultRule, Freeze, Guardrail, GuardrailSpec,
    GuardrailStatus, MomentRule, NamedWorkload, PromotionRule, ProtectRule, Queued, ReachRule, SingleReplica, Slot, Value,
    ValueRule, Whose,
};
pub use injection::{Aim, Injection, InjectionPhase, InjectionSpec, InjectionStatus, Peers, PodRef, RunRef};
pub use network::{Chance, Cidr, Direction, Distribution, Network, Peer, Protocol, Rate};
pub use node::{
    ContainerKill, Cpu, CpuMode, DiskFill, DiskIo, DiskOperation, FileError, FileOperation, Files, KillSignal, Memory, Pause,
    PauseScope, Processes,
};
pub use people::{Approval, Gate, GateAnswer, Note, People};
pub use percent::Percent;
pub use probe::{Expect, HttpProbe, Probe, ReadyAtLeast, TcpProbe, WorkloadProbe};
pub use run::{
    Bound, BoundVictims, Entry, EntryKind, ExperimentPhase, ExperimentStatus, GameDayRun, GameDayRunSpec, GameDayRunStatus,
    ProbeStatus, Proof, RunPhase, Saw, Stop, TargetKind, TargetStatus, Undo, Verdict,
};
pub use selector::{Expression, Operator, Selector};
pub use window::{Date, TimeOfDay, Weekday, Window};
pub use words::{limits, says};

/// The API group of all resources.
pub const GROUP: &str = "gameday.dev";
/// Written on what a fault changed and will change back: the uid of the run that holds it. A label, so that a
/// sweep finds everything held with one list request, even after the run itself is gone.
pub const LABEL_HELD_BY: &str = "gameday.dev/held-by";
/// Beside [`LABEL_HELD_BY`]: the run's namespace and name, so that a sweep can ask whether it still exists.
pub const LABEL_HELD_FOR_NAMESPACE: &str = "gameday.dev/held-for-namespace";
/// See [`LABEL_HELD_FOR_NAMESPACE`].
pub const LABEL_HELD_FOR_NAME: &str = "gameday.dev/held-for-name";
/// Beside [`LABEL_HELD_BY`] on a scaled workload: the replicas to go back to.
pub const LABEL_UNDO_REPLICAS: &str = "gameday.dev/undo-replicas";
/// Beside [`LABEL_UNDO_REPLICAS`]: the replicas that the fault set.
pub const LABEL_SET_REPLICAS: &str = "gameday.dev/set-replicas";
/// Left by an undo that found nothing to undo, with the uid of its run: a write of the fault that is still on its way
/// then meets an object that has changed, and fails.
pub const ANNOTATION_FENCE: &str = "gameday.dev/fence";
/// The name of agents: their service account, and what their pods are labelled with.
pub const AGENT: &str = "gameday-agent";
/// On an agent's Lease: the faults that it cannot hold, with the reasons, as JSON.
pub const ANNOTATION_CANNOT: &str = "gameday.dev/cannot";
/// On an agent's pod: the faults that it has the capabilities for.
pub const ANNOTATION_FAULTS: &str = "gameday.dev/faults";
/// On the operator's Lease: what agents let go at once, of which experiment of which run. A JSON list of names as
/// [`InjectionSpec::held_for`] makes them.
pub const ANNOTATION_LET_GO: &str = "gameday.dev/let-go";
/// On a run: the game day it is a run of.
pub const LABEL_GAMEDAY: &str = "gameday.dev/gameday";
