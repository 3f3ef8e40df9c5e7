use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gameday::Moment;
use super::{Condition, Duration, GameDaySpec, People, limits, says};

/// One execution of a game day. One object holds the whole truth of a run.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "gameday.dev",
    version = "v1alpha1",
    kind = "GameDayRun",
    namespaced,
    shortname = "gdr",
    category = "gameday-all",
    status = "GameDayRunStatus",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "Experiment", type_ = "string", json_path = ".status.experiment"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".status.targets"),
    printcolumn(name = "Why", type_ = "string", json_path = ".status.why"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.gameDay == oldSelf.gameDay && self.gameDayName == oldSelf.gameDayName", says::FROZEN))]
#[x_kube(validation = ("has(self.bound) == has(oldSelf.bound) && (!has(self.bound) || self.bound == oldSelf.bound)", says::FROZEN))]
#[x_kube(validation = ("!has(oldSelf.stop) || has(self.stop)", says::STOP_STAYS))]
#[x_kube(validation = ("!has(oldSelf.people) || has(self.people)", says::SAID_STAYS))]
pub struct GameDayRunSpec {
    /// The game day that this is a run of.
    #[schemars(length(min = 1, max = 50))]
    pub game_day_name: String,
    /// The minute it was scheduled for; absent for one started by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub scheduled_for: Option<Timestamp>,
    /// What to run, as it was at the start.
    pub game_day: GameDaySpec,
    /// Set to end the run: everything in force is reverted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// Approvals, answers to gates, and notes.
    #[serde(default, skip_serializing_if = "People::is_empty")]
    pub people: People,
    /// What `gameday plan --save` saw: where it is not so any more, the run is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

/// A plan that binds its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    #[schemars(length(max = limits::EXPERIMENTS))]
    pub victims: Vec<BoundVictims>,
    /// The guardrails that hold, by name, each with its spec as JSON.
    #[serde(default)]
    pub guardrails: BTreeMap<String, String>,
}

/// Whom an experiment hits first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoundVictims {
    #[schemars(length(min = 1, max = 63))]
    pub experiment: String,
    /// `Pod/checkout-x (uid)`.
    #[schemars(length(max = limits::TARGETS))]
    pub targets: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stop {
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub by: Option<String>,
}

/// The record, the evidence and the judgement of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GameDayRunStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub phase: RunPhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The verdict, or what is waited for, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Under way now, for `kubectl get`: "lose-a-pod Holding".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// Targets hit and chosen, for `kubectl get`: "1/1".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// Why no further experiment starts, once something said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub started: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub finished: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::EXPERIMENTS))]
    pub experiments: Vec<ExperimentStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::PROBES))]
    pub probes: Vec<ProbeStatus>,
    /// What happened, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub record: Vec<Entry>,
    /// Notes of people that are in the record already.
    #[serde(default)]
    pub noted: i32,
    /// Entries left out in the middle of the record.
    #[serde(default)]
    pub record_omitted: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunPhase {
    /// Nothing has been touched: it waits for the cord to be released, or to be seen at all.
    #[default]
    Waiting,
    Running,
    Finished,
}

/// How an experiment, or a run, was judged. Ordered from worst to best: a run's verdict is the worst of its
/// experiments'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    Failed,
    Inconclusive,
    Passed,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Failed => "Failed",
            Verdict::Inconclusive => "Inconclusive",
            Verdict::Passed => "Passed",
        })
    }
}

/// Where an experiment is. Nothing is touched before Injecting; what is not known to be clean is Reverting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ExperimentPhase {
    #[default]
    Pending,
    Baseline,
    Arming,
    Injecting,
    Holding,
    Reverting,
    Recovering,
    Judged,
}

impl std::fmt::Display for ExperimentPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentStatus {
    pub name: String,
    pub phase: ExperimentPhase,
    /// When this phase began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub since: Option<Timestamp>,
    /// Candidates when the targets were chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<i32>,
    /// All targets so far, the latest round last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetStatus>,
    /// Images of the targets: what passes on these says nothing of others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::IMAGES))]
    pub images: Vec<String>,
    /// When its gate was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub asked: Option<Timestamp>,
    /// Who opened its gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Rounds of a repeated fault so far.
    #[serde(default)]
    pub rounds: i32,
    /// When the last round was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub last_round: Option<Timestamp>,
    /// When the first target was recorded: the fault may be in force from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub injected: Option<Timestamp>,
    /// The first bad sample of the streak that broke the hypothesis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub first_bad: Option<Timestamp>,
    /// When the breach was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub breached: Option<Timestamp>,
    /// The breach in words: which probe, and what it saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breach: Option<String>,
    /// When reverting was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub reverted: Option<Timestamp>,
    /// When the last target was read back clean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub clean: Option<Timestamp>,
    /// When the steady state had returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub recovered: Option<Timestamp>,
    /// Injected → breach seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_detect: Option<Duration>,
    /// Breach seen → last target clean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_abort: Option<Duration>,
    /// Last target clean → steady again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_recover: Option<Duration>,
    /// The candidates when the first targets were chosen, with those that the run had taken away by then: as
    /// many must be back before what was killed counts as replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_before: Option<i32>,
    /// When the probes were seen.
    #[serde(default)]
    pub saw: Saw,
    /// What made the evidence incomplete, the first of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The verdict's reason in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whether every probe gave at least one sample in each part of an experiment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Saw {
    #[serde(default)]
    pub before: bool,
    #[serde(default)]
    pub during: bool,
    #[serde(default)]
    pub after: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    Pod,
    Node,
    Deployment,
    StatefulSet,
}

impl std::fmt::Display for TargetKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One target, from the moment it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    pub kind: TargetKind,
    pub name: String,
    pub uid: String,
    /// A pod's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[schemars(with = "Moment")]
    pub recorded: Timestamp,
    /// The fault ends by then at the latest. Where it could not be undone in time, the run is not Passed.
    #[schemars(with = "Moment")]
    pub latest_end: Timestamp,
    /// How many pods it takes away, for the blast radius.
    pub weight: i32,
    /// The experiments, by number, whose candidates it is among: their percentages count it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<i32>,
    /// What brings it back. Absent where there is nothing to bring back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
    /// Proof that the fault took effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bite: Option<Proof>,
    /// Proof that nothing of it is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean: Option<Proof>,
    /// What stands in the way just now: a refused eviction, an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What brings a target back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    /// A workload's replicas before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// A workload's replicas that the fault sets: only these are set back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_replicas: Option<i32>,
    /// The node was schedulable before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedulable: Option<bool>,
}

/// What was seen, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    #[schemars(with = "Moment")]
    pub at: Timestamp,
    pub what: String,
}

/// What a probe saw over the whole run. Latencies in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeStatus {
    pub name: String,
    pub samples: i64,
    pub bad: i64,
    /// Samples that could not be taken.
    pub blind: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_ms: Option<f64>,
    /// How far the worst sample stayed from the limit, in words: "212 ms of 300 ms left", "1 of 3 replicas".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// The last sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub last: Option<Timestamp>,
    /// What the last sample saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saw: Option<String>,
    /// Bad samples one after the other, up to the last.
    pub streak: i64,
}

/// One line of a run's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    #[schemars(with = "Moment")]
    pub at: Timestamp,
    pub kind: EntryKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EntryKind {
    Waiting,
    /// What somebody said: an approval, an answer, a note.
    Note,
    Started,
    Phase,
    Ordered,
    Bite,
    Refused,
    Breach,
    Cut,
    Clean,
    Steady,
    Judged,
    Finished,
}

impl GameDayRun {
    /// Whether everything that this run will ever do is done.
    pub fn is_finished(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase == RunPhase::Finished)
    }
}
