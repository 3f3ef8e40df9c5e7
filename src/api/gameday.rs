use clap::ValueEnum;
use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Fault, Gate, Percent, Probe, Targets, Verdict, limits, says};

/// What people write: a hypothesis, the steady state that must hold, experiments that inject faults, and how
/// far they may reach.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "gameday.dev",
    version = "v1alpha1",
    kind = "GameDay",
    namespaced,
    shortname = "gd",
    category = "gameday-all",
    status = "GameDayStatus",
    validation = ("self.metadata.name.size() <= 50", says::NAME),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule.cron"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Active", type_ = "string", json_path = ".status.active"),
    printcolumn(name = "Last", type_ = "string", json_path = ".status.lastVerdict"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextStart"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GameDaySpec {
    /// One sentence that the game day tries to disprove.
    #[schemars(length(min = 1, max = 1024))]
    pub hypothesis: String,
    /// When to run. Absent: once, when created, as a Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// No run starts while this is true. Runs under way go on.
    #[serde(default)]
    pub suspend: bool,
    /// In whose name: this account of the game day's namespace must be allowed what the faults do.
    #[serde(default = "service_account_default")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: String,
    /// The same seed and the same candidates give the same victims. Absent: each run draws its own, which its
    /// spec then shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub seed: Option<i64>,
    /// What must stay true. A breach of any of these ends the faults.
    #[schemars(length(min = 1, max = limits::PROBES))]
    pub steady_state: Vec<Probe>,
    /// How far the faults of one run may reach, counted over all that is in force in it.
    #[serde(default)]
    pub blast_radius: BlastRadius,
    /// Steady this long before each experiment, or nothing is injected. The default, 10s, is ten samples at
    /// the default rate.
    #[serde(default = "baseline_default")]
    pub baseline: Duration,
    /// Steady again this soon after the fault is gone, or the experiment failed. The default, 60s, is the time
    /// in which a pod is usually started, ready and in its Service again.
    #[serde(default = "recovery_default")]
    pub recovery: Duration,
    #[serde(default)]
    pub on_breach: OnBreach,
    /// What is tried, in order; with `after`, a graph.
    #[schemars(length(min = 1, max = limits::EXPERIMENTS))]
    pub experiments: Vec<Experiment>,
    /// Finished runs kept. The default, 20, is a season of weekly game days.
    #[serde(default = "keep_default")]
    #[schemars(range(min = 1, max = limits::KEEP))]
    pub keep: i32,
}

fn service_account_default() -> String {
    "default".to_owned()
}

fn baseline_default() -> Duration {
    Duration::from_secs(10)
}

fn recovery_default() -> Duration {
    Duration::from_secs(60)
}

fn keep_default() -> i32 {
    20
}

/// When runs start. Differs from a CronJob on days with a clock change: a start falls exactly once, also when
/// its minute happens twice or not at all. A pattern of every hour goes by the hours that pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Minute, hour, day of month, month, day of week.
    #[schemars(length(min = 1, max = 128))]
    pub cron: String,
    /// An IANA time zone.
    #[serde(default = "time_zone_default")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// A start that could not be made this soon after its minute is missed, recorded, and not made up for. The
    /// default, 5m, outlives an operator's restart and not a coffee break.
    #[serde(default = "start_within_default")]
    pub start_within: Duration,
    #[serde(default)]
    pub if_running: IfRunning,
}

fn time_zone_default() -> String {
    "UTC".to_owned()
}

fn start_within_default() -> Duration {
    Duration::from_secs(300)
}

/// What a start does when the last run is still under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IfRunning {
    /// It is missed, and recorded as such.
    #[default]
    Skip,
    /// It stops the run under way and starts when that is finished, if that is within `startWithin`.
    Replace,
}

/// How far the faults of one run may reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlastRadius {
    /// At most so many targets at once. The default is one.
    #[serde(default = "targets_default")]
    #[schemars(range(min = 1, max = limits::TARGETS))]
    pub targets: i32,
    /// At most this part of an experiment's candidates at once, rounded down. The default, 50, never takes the
    /// only replica.
    #[serde(default = "percent_default")]
    pub percent: Percent,
    /// No fault is held longer. At most 24h.
    #[serde(default = "hold_max_default")]
    pub hold: Duration,
}

impl Default for BlastRadius {
    fn default() -> Self {
        BlastRadius { targets: targets_default(), percent: percent_default(), hold: hold_max_default() }
    }
}

fn targets_default() -> i32 {
    1
}

fn percent_default() -> Percent {
    Percent::new(50).expect("50 is a percentage")
}

fn hold_max_default() -> Duration {
    Duration::from_secs(300)
}

/// What a breach does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnBreach {
    /// Everything in force is reverted at once, and no further experiment starts.
    #[default]
    Abort,
    /// It is recorded, the experiment has failed, and the run goes on.
    Continue,
}

/// One step of a run: a fault on targets while the steady state is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.after) || !(self.name in self.after)", says::AFTER_SELF))]
#[x_kube(validation = ("self.hold.matches('[1-9]')", says::NO_HOLD))]
#[x_kube(validation = ("has(self.fault.scale) == has(self.targets.workload)", says::WORKLOAD_FAULT))]
#[x_kube(validation = ("has(self.fault.cordon) == has(self.targets.nodes)", says::NODE_FAULT))]
pub struct Experiment {
    /// Its name in the record, the report, and in `after`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    pub targets: Targets,
    pub fault: Fault,
    /// How long the fault is held and the steady state watched. The default, 30s, is ten breaches' length at
    /// the default rate.
    #[serde(default = "hold_default")]
    pub hold: Duration,
    /// What becomes of a fault that a node holds when the target's container restarts under it.
    #[serde(default, skip_serializing_if = "OnRestart::is_default")]
    pub on_restart: OnRestart,
    /// A question to people before it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// The experiments that must be over first. Absent: the one before. `[]`: none, it starts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::EXPERIMENTS), inner(length(max = 63)))]
    pub after: Option<Vec<String>>,
}

fn hold_default() -> Duration {
    Duration::from_secs(30)
}

/// What becomes of a fault whose container restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
#[value(rename_all = "PascalCase")]
pub enum OnRestart {
    /// It has ended before its time: the experiment is inconclusive.
    #[default]
    Lose,
    /// It is held again in the new container, for what is left of its time.
    Reinject,
}

impl OnRestart {
    pub fn is_default(&self) -> bool {
        *self == OnRestart::default()
    }
}

/// What the operator says of a game day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GameDayStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: whether it can be run as written; if not, every reason with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The run under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verdict: Option<Verdict>,
    /// The scheduled minute that was decided last, started or missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub last_scheduled: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Moment>")]
    pub next_start: Option<Timestamp>,
    /// Scheduled starts that were not made, over all time.
    #[serde(default)]
    pub missed: i64,
    /// The last ten of them, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed_starts: Vec<MissedStart>,
}

/// A scheduled start that was not made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissedStart {
    #[schemars(with = "Moment")]
    pub at: Timestamp,
    pub why: String,
}

/// One condition, as Kubernetes has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: ConditionStatus,
    pub reason: String,
    pub message: String,
    #[schemars(with = "Moment")]
    pub last_transition_time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// Takes the place of the one of its kind. Where the answer is the same, so is the time since when.
    pub fn put(mut self, conditions: &mut Vec<Condition>) {
        match conditions.iter_mut().find(|known| known.kind == self.kind) {
            Some(known) => {
                if known.status == self.status {
                    self.last_transition_time = known.last_transition_time;
                }
                *known = self;
            }
            None => conditions.push(self),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// The schema of a moment: RFC 3339, as everywhere in Kubernetes.
pub(super) struct Moment;

small_schema!(Moment, {"type": "string", "format": "date-time"});
