use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ContainerKill, Cpu, Direction, DiskFill, DiskIo, Duration, FaultKind, FileError, FileOperation, Files, Memory, Network,
    Pause, Percent, Processes, Selector, says,
};

/// What is done to the targets: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.podKill), has(self.podEvict), has(self.scale), has(self.cordon), has(self.network), has(self.cpu), has(self.memory), has(self.diskFill), has(self.diskIo), has(self.files), has(self.processes), has(self.pause), has(self.containerKill)].filter(x, x).size() == 1", says::ONE_FAULT))]
pub struct Fault {
    /// Delete pods. It has bitten when the pod's uid is gone; its workload makes another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_kill: Option<PodKill>,
    /// Ask the Eviction API, which honours disruption budgets. A refusal is shown and asked again until the
    /// hold ends; it is never bypassed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_evict: Option<PodEvict>,
    /// Set a workload's replicas, and set them back. Needs `targets.workload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Mark nodes unschedulable, and schedulable again. Needs `targets.nodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// Disturb packets between the pods and others. Everything is done to whole packets in the pod's own network: nothing
    /// else on its node notices. A pod has one network fault at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Burn processor time in a container. Give `percent` or `cores`, one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Fill a container's memory, giving way when it grows itself. Give `percent` or `bytes`, one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Fill the file system under a path of a container. Give `percent` or `bytes`, one of them. What lies on the node's
    /// own disk, an emptyDir too, is filled to 85 % at most; what lies in memory is charged to the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_fill: Option<DiskFill>,
    /// Compete for the disk under a path of a container, past its cache. What that does to the target is a property of
    /// the disk: it is measured, never promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_io: Option<DiskIo>,
    /// Delay, fail or slow down opening, reading and writing under a path of a container. Give `delay`, `error`, or
    /// both; or `rate`. Files that were open before are not touched, nor are calls that open nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// Use up a container's process limit. It or its pod must have one, which the kubelet's `podPidsLimit` sets and most
    /// clusters do not; without one the fault is refused. Give `percent`, `leave`, or neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Processes>,
    /// Stop every thread of a container. Connections stay open and nothing answers. Held longer than its liveness probe is
    /// patient, the kubelet restarts the container; `gameday plan` warns of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Send a container's first process a signal, once. It has bitten when the process is gone; the kubelet starts
    /// another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_kill: Option<ContainerKill>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodKill {
    /// Time the pod has to end after SIGTERM. Absent: the pod's own. `0s` kills at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<Duration>,
    /// Choose and kill again, each time this long after the last, until the hold ends. At least 1s; absent: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodEvict {
    /// Choose and evict again, each time this long after the last, until the hold ends. At least 1s; absent: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.replicas) != has(self.percent)", says::ONE_SCALE))]
pub struct Scale {
    /// To this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub replicas: Option<i32>,
    /// To this part of what it has, rounded down; 200 is not a percentage: to grow, use `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cordon {}

impl Fault {
    /// Those that are written. One, in what is valid.
    pub fn kinds(&self) -> Vec<FaultKind> {
        let Fault {
            pod_kill,
            pod_evict,
            scale,
            cordon,
            network,
            cpu,
            memory,
            disk_fill,
            disk_io,
            files,
            processes,
            pause,
            container_kill,
        } = self;
        let written = [
            (FaultKind::PodKill, pod_kill.is_some()),
            (FaultKind::PodEvict, pod_evict.is_some()),
            (FaultKind::Scale, scale.is_some()),
            (FaultKind::Cordon, cordon.is_some()),
            (FaultKind::Network, network.is_some()),
            (FaultKind::Cpu, cpu.is_some()),
            (FaultKind::Memory, memory.is_some()),
            (FaultKind::DiskFill, disk_fill.is_some()),
            (FaultKind::DiskIo, disk_io.is_some()),
            (FaultKind::Files, files.is_some()),
            (FaultKind::Processes, processes.is_some()),
            (FaultKind::Pause, pause.is_some()),
            (FaultKind::ContainerKill, container_kill.is_some()),
        ];
        written.into_iter().filter(|(_, is)| *is).map(|(kind, _)| kind).collect()
    }

    /// What its node must be able to do besides holding a fault of this kind.
    pub fn parts(&self) -> Vec<FaultPart> {
        let network = |is: fn(&Network) -> bool| self.network.as_ref().is_some_and(is);
        let files = |is: fn(&Files) -> bool| self.files.as_ref().is_some_and(is);
        let delays_what_is_sent =
            |network: &Network| network.delay.is_some() && matches!(network.direction, Some(Direction::Out | Direction::Both));
        let parts = [
            (FaultPart::Egress, network(delays_what_is_sent)),
            (FaultPart::Partition, network(|network| network.partition == Some(true))),
            (FaultPart::FileErrors, files(|files| files.error.is_some_and(|error| error != FileError::Eperm))),
            (FaultPart::FileAccess, files(|files| files.operations.contains(&FileOperation::Access))),
        ];
        parts.into_iter().filter(|(_, is)| *is).map(|(part, _)| part).collect()
    }
}

/// What some kernels cannot do of a fault that they can hold otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPart {
    /// Delaying what a target sends.
    Egress,
    Partition,
    /// Failing calls with another error than EPERM.
    FileErrors,
    /// [`FileOperation::Access`].
    FileAccess,
}

impl FaultPart {
    pub const fn kind(self) -> FaultKind {
        match self {
            FaultPart::Egress | FaultPart::Partition => FaultKind::Network,
            FaultPart::FileErrors | FaultPart::FileAccess => FaultKind::Files,
        }
    }

    /// The fault with this part, as it follows `cannot hold`.
    pub const fn name(self) -> &'static str {
        match self {
            FaultPart::Egress => "network with a delay of what is sent",
            FaultPart::Partition => "network with a partition",
            FaultPart::FileErrors => "files with an error other than EPERM",
            FaultPart::FileAccess => "files with the operation access",
        }
    }
}

/// Who may be hit: exactly one of `pods`, `nodes`, `workload`, and how many of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("[has(self.pods), has(self.nodes), has(self.workload)].filter(x, x).size() == 1", says::ONE_TARGET))]
#[x_kube(validation = (NOT_EVERYTHING, says::EVERYTHING))]
pub struct Targets {
    /// Ready pods with these labels, in the game day's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Selector>,
    /// Ready, schedulable nodes with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Selector>,
    /// One workload in the game day's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRef>,
    /// How many of the candidates; absent: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choose: Option<Choose>,
    /// The container in each pod, for faults that hit one; absent: the pod's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
}

const NOT_EVERYTHING: &str = "(!has(self.pods) || (has(self.pods.matchLabels) && size(self.pods.matchLabels) > 0) || (has(self.pods.matchExpressions) && size(self.pods.matchExpressions) > 0)) && (!has(self.nodes) || (has(self.nodes.matchLabels) && size(self.nodes.matchLabels) > 0) || (has(self.nodes.matchExpressions) && size(self.nodes.matchExpressions) > 0))";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.count) != has(self.percent)", says::ONE_CHOICE))]
#[x_kube(validation = ("!has(self.count) || self.count != 0", says::NOBODY))]
pub struct Choose {
    /// This many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 500))]
    pub count: Option<i32>,
    /// This part of the candidates, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRef {
    pub kind: WorkloadKind,
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
}

impl std::fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WorkloadKind::Deployment => "Deployment",
            WorkloadKind::StatefulSet => "StatefulSet",
        })
    }
}

impl std::fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}
