use std::fmt;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::gameday::Moment;
use super::people::verb_default;
use super::{Condition, Duration, Percent, ReadyAtLeast, Selector, Window, limits, says};

/// What the platform team allows anyone: how many runs, how far, when, with what, and who must say yes.
///
/// Several may cover a namespace: all of them hold. Where none does, the one named `built-in` holds.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "gameday.dev",
    version = "v1alpha1",
    kind = "Guardrail",
    shortname = "gr",
    category = "gameday-all",
    status = "GuardrailStatus",
    validation = ("self.metadata.name.size() <= 63", says::GUARDRAIL_NAME),
    printcolumn(name = "Limit", type_ = "integer", json_path = ".spec.runs"),
    printcolumn(name = "In progress", type_ = "integer", json_path = ".status.inProgress"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waitingRuns"),
    printcolumn(name = "Valid", type_ = "string", json_path = ".status.conditions[?(@.type==\"Valid\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GuardrailSpec {
    /// The namespaces it covers: it limits runs in them, and counts what is in them. Absent or empty: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,
    /// Runs under way at once. The default, 1, is what people can follow.
    #[serde(default = "runs_default")]
    #[schemars(range(min = 1, max = limits::RUNS))]
    pub runs: i32,
    #[serde(default)]
    pub reach: ReachRule,
    /// Whether a fault that makes a pod unavailable needs headroom in every disruption budget that covers it.
    #[serde(default)]
    pub budgets: BudgetRule,
    #[serde(default)]
    pub moment: MomentRule,
    #[serde(default)]
    pub faults: FaultRule,
    #[serde(default)]
    pub protect: ProtectRule,
    /// A run waits until people have approved it. Absent: nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
    /// Wider only after narrower has passed. Absent: as wide as the rest allows at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<PromotionRule>,
}

fn runs_default() -> i32 {
    1
}

/// How far faults may reach at once, counted over all runs and everything in force, plus what is missing or
/// not ready anyway. What is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReachRule {
    /// Pods of one workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Cap>,
    /// Pods of one namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Cap>,
    /// Pods on one node, of the namespaces covered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Cap>,
    /// Pods in one zone, of the namespaces covered; and, for faults on nodes, nodes in one zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Cap>,
    /// Nodes of the cluster. One that is cordoned or not ready counts already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Cap>,
    /// Ready replicas, hit by nothing, that must be left of each workload. A percentage rounds up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_left: Option<ReadyAtLeast>,
    #[serde(default)]
    pub single_replica: SingleReplica,
    /// Single-replica workloads that may be hit all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub except: Vec<NamedWorkload>,
}

/// At most so many at once; where both are given, the smaller counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.targets) || has(self.percent)", says::CAP))]
pub struct Cap {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = limits::TARGETS))]
    pub targets: Option<i32>,
    /// Rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
}

/// What becomes of workloads that have only one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SingleReplica {
    /// No fault hits them, unless they are named in `except`.
    #[default]
    Spare,
    Allow,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedWorkload {
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Of a Deployment, StatefulSet or whatever owns the pods; a bare pod is its own workload.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BudgetRule {
    #[default]
    Honour,
    Ignore,
}

/// When faults may be in force. All of it is asked before a fault, and again each second while one is held.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MomentRule {
    /// The IANA time zone of the opening hours and freezes. Absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Opening hours: open in any of these. Absent or empty: always open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::WINDOWS))]
    pub open: Vec<Window>,
    /// Closed in any of these, whatever the opening hours say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::WINDOWS))]
    pub freezes: Vec<Freeze>,
    /// No fault while a workload rolls out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Whose>,
    /// No fault while a horizontal autoscaler is at its maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaler_at_maximum: Option<Whose>,
    /// No fault while a node is not ready that no fault of ours made so.
    #[serde(default)]
    pub node_not_ready: bool,
    /// No fault while one of these fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<AlertRule>,
}

/// A time in which nothing is broken on purpose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("(has(self.when.days) && size(self.when.days) > 0) || has(self.when.from) || has(self.when.firstDate) || has(self.when.lastDate)", says::FREEZE_ALWAYS))]
pub struct Freeze {
    /// Shown to everybody who waits for its end.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    pub when: Window,
    /// Another time zone than the guardrail's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
}

/// Whose workloads are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Whose {
    /// Those that would be hit.
    Targets,
    /// All of the run's namespace.
    Namespace,
    /// All that the guardrail covers.
    Covered,
}

/// Alerts, as a Prometheus knows them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertRule {
    #[schemars(length(max = 2048))]
    #[x_kube(validation = ("isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != ''", says::PROMETHEUS))]
    pub prometheus: String,
    #[schemars(length(min = 1, max = limits::ALERTS))]
    pub queries: Vec<AlertQuery>,
}

/// It fires while its query gives anything but nothing, as an alerting rule does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertQuery {
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
}

/// Which faults, how long, and how strong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultRule {
    /// Only these. Absent: all. `[]`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub allow: Option<Vec<FaultKind>>,
    /// No fault is held longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Duration>,
    /// Bounds of what a fault is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::VALUES))]
    pub values: Vec<ValueRule>,
}

/// The faults by name, as a game day writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    PodKill,
    PodEvict,
    Scale,
    Cordon,
    Network,
    Cpu,
    Memory,
    DiskFill,
    DiskIo,
    Files,
    Processes,
    Pause,
    ContainerKill,
}

impl FaultKind {
    pub const ALL: [FaultKind; 13] = [
        FaultKind::PodKill,
        FaultKind::PodEvict,
        FaultKind::Scale,
        FaultKind::Cordon,
        FaultKind::Network,
        FaultKind::Cpu,
        FaultKind::Memory,
        FaultKind::DiskFill,
        FaultKind::DiskIo,
        FaultKind::Files,
        FaultKind::Processes,
        FaultKind::Pause,
        FaultKind::ContainerKill,
    ];

    /// Those that an agent holds on its node.
    pub fn held() -> impl Iterator<Item = FaultKind> {
        FaultKind::ALL.into_iter().filter(|kind| kind.is_held())
    }

    /// As it is written in a game day.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::PodKill => "podKill",
            FaultKind::PodEvict => "podEvict",
            FaultKind::Scale => "scale",
            FaultKind::Cordon => "cordon",
            FaultKind::Network => "network",
            FaultKind::Cpu => "cpu",
            FaultKind::Memory => "memory",
            FaultKind::DiskFill => "diskFill",
            FaultKind::DiskIo => "diskIo",
            FaultKind::Files => "files",
            FaultKind::Processes => "processes",
            FaultKind::Pause => "pause",
            FaultKind::ContainerKill => "containerKill",
        }
    }

    /// Whether a process on the target's node holds it.
    pub fn is_held(self) -> bool {
        match self {
            FaultKind::PodKill | FaultKind::PodEvict | FaultKind::Scale | FaultKind::Cordon => false,
            FaultKind::Network
            | FaultKind::Cpu
            | FaultKind::Memory
            | FaultKind::DiskFill
            | FaultKind::DiskIo
            | FaultKind::Files
            | FaultKind::Processes
            | FaultKind::Pause
            | FaultKind::ContainerKill => true,
        }
    }

    /// Whether it is in force until something ends it. What is killed or evicted is over as soon as it is done.
    pub fn lasts(self) -> bool {
        match self {
            FaultKind::PodKill | FaultKind::PodEvict | FaultKind::ContainerKill => false,
            FaultKind::Scale
            | FaultKind::Cordon
            | FaultKind::Network
            | FaultKind::Cpu
            | FaultKind::Memory
            | FaultKind::DiskFill
            | FaultKind::DiskIo
            | FaultKind::Files
            | FaultKind::Processes
            | FaultKind::Pause => true,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The smallest and the largest value of one field of a fault. A fault without that field is not concerned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.min) || has(self.max)", says::VALUE_BOUND))]
pub struct ValueRule {
    /// Where it stands in a game day, below `fault`: `podKill.gracePeriod`, `scale.percent`.
    #[schemars(length(max = 128))]
    #[x_kube(validation = ("self.matches('^[a-z][A-Za-z]*([.][a-z][A-Za-z]*)+$')", says::VALUE_FIELD))]
    pub field: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Value>,
}

/// A whole number (`80`) or a duration (`500ms`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Number(i64),
    Duration(Duration),
}

impl Value {
    /// Reads what a fault was given.
    pub fn read(value: &serde_json::Value) -> Option<Value> {
        match value {
            serde_json::Value::Number(number) => number.as_i64().map(Value::Number),
            serde_json::Value::String(text) => match text.parse::<i64>() {
                Ok(number) => Some(Value::Number(number)),
                Err(_) => text.parse().ok().map(Value::Duration),
            },
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                None
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Duration(duration) => write!(f, "{duration}"),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Number(number) => serializer.serialize_i64(*number),
            Value::Duration(duration) => serializer.collect_str(duration),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Value::read(&value).ok_or_else(|| serde::de::Error::custom(says::VALUE))
    }
}

small_schema!(Value, {
    "x-kubernetes-int-or-string": true,
    "maxLength": 24,
    "x-kubernetes-validations": [{
        "rule": "type(self) == int || (size(string(self)) > 0 && string(self).matches('^([0-9]+|([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?([0-9]{1,7}ms)?)$'))",
        "message": says::VALUE,
    }],
});

/// What no fault hits. `kube-system` and the operator's own namespaces are protected always.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtectRule {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub namespaces: Vec<String>,
    /// Workloads, pods or nodes of these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub names: Vec<String>,
    /// Pods, workloads by their pods' labels, and nodes that one of these selects. An empty one selects all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub labels: Vec<Selector>,
}

/// Who must say yes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRule {
    /// The verb on `gamedayruns` that makes somebody an approver. The default, `approve`, is granted by no
    /// role but one written for it.
    #[serde(default = "verb_default")]
    #[schemars(length(min = 1, max = 63))]
    pub verb: String,
    /// So many different people.
    #[serde(default = "people_default")]
    #[schemars(range(min = 1, max = 16))]
    pub people: i32,
    /// An approval holds at most so long, whatever end it names. The default, 24h, is a day's work: later, what
    /// was looked at is no longer what is there.
    #[serde(default = "approval_default")]
    pub longest: Duration,
}

fn people_default() -> i32 {
    1
}

fn approval_default() -> Duration {
    Duration::from_secs(24 * 3_600)
}

/// From narrow to wide: an experiment wider than a stage needs a pass of the same experiment of the same game
/// day within that stage, or a wider one, on the same images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PromotionRule {
    /// From the narrowest on. The first needs nothing.
    #[schemars(length(min = 1, max = limits::STAGES))]
    pub stages: Vec<Cap>,
    /// A pass counts so many days.
    #[schemars(range(min = 1, max = 365))]
    pub days: i32,
}

/// The board: who is at work, and who waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuardrailStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The length of `runs`, for `kubectl get`.
    #[serde(default)]
    pub in_progress: i32,
    /// The length of `waiting`, for `kubectl get`.
    #[serde(default)]
    pub waiting_runs: i32,
    /// The slots that are taken. Written by compare-and-swap only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Slot>,
    /// Who waits for a slot, first come first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::QUEUE + limits::RUNS as u32))]
    pub waiting: Vec<Queued>,
    /// `Valid`: whether it can be obeyed as written; if not, every reason with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A run at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    pub namespace: String,
    pub run: String,
    pub uid: String,
    /// When it began to wait: its place in every queue.
    #[schemars(with = "Moment")]
    pub since: Timestamp,
    #[schemars(with = "Moment")]
    pub taken: Timestamp,
}

/// A run that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Queued {
    pub namespace: String,
    pub run: String,
    pub uid: String,
    /// When it began to wait: its place in every queue.
    #[schemars(with = "Moment")]
    pub since: Timestamp,
}
