//! What is read of the cluster's objects, and nothing more: two thousand pods must not fill the memory.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::{apps, core};
use kube::api::{Api, ApiResource, Object};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::{Duration, LABEL_HELD_BY, WorkloadKind};
use crate::engine::guardrail::{AutoscalerShown, BudgetShown};
use crate::engine::liveness::{Asks, Liveness};
use crate::engine::{NodeSeen, PodSeen, WorkloadKey, WorkloadSeen};

pub type Pod = Object<PodSpec, PodStatus>;
pub type Node = Object<NodeSpec, PodStatus>;
pub type Workload = Object<WorkloadSpec, WorkloadStatus>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    node_name: Option<String>,
    #[serde(default)]
    host_network: bool,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default)]
    image: String,
    liveness_probe: Option<LivenessProbe>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LivenessProbe {
    http_get: Option<IgnoredAny>,
    grpc: Option<IgnoredAny>,
    tcp_socket: Option<IgnoredAny>,
    exec: Option<IgnoredAny>,
    period_seconds: Option<u32>,
    timeout_seconds: Option<u32>,
    failure_threshold: Option<u32>,
}

impl LivenessProbe {
    /// What is not said is as the API server has it. Nothing where it asks in a way that is not known here.
    fn read(&self) -> Option<Liveness> {
        let ways = [
            (self.http_get.is_some(), Asks::Http),
            (self.grpc.is_some(), Asks::Grpc),
            (self.tcp_socket.is_some(), Asks::Tcp),
            (self.exec.is_some(), Asks::Command),
        ];
        let seconds = |written: Option<u32>, default| Duration::from_secs(written.unwrap_or(default).into());
        Some(Liveness {
            asks: ways.into_iter().find(|(is, _)| *is).map(|(_, asks)| asks)?,
            period: seconds(self.period_seconds, 10),
            timeout: seconds(self.timeout_seconds, 1),
            failures: self.failure_threshold.unwrap_or(3),
        })
    }
}

impl PodSpec {
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        self.containers.iter().map(|container| container.name.as_str())
    }

    pub fn liveness(&self) -> BTreeMap<String, Liveness> {
        let probe = |container: &Container| Some((container.name.clone(), container.liveness_probe.as_ref()?.read()?));
        self.containers.iter().filter_map(probe).collect()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    #[serde(default, rename = "imageID")]
    image_id: String,
    #[serde(default)]
    state: serde_json::Map<String, serde_json::Value>,
}

/// A node's status has its conditions in the same place.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    phase: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeSpec {
    #[serde(default)]
    pub unschedulable: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct WorkloadSpec {
    replicas: Option<i32>,
    template: Template,
}

#[derive(Clone, Debug, Deserialize)]
struct Template {
    #[serde(default)]
    metadata: TemplateMetadata,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct TemplateMetadata {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadStatus {
    replicas: i32,
    ready_replicas: i32,
    updated_replicas: i32,
    conditions: Vec<Condition>,
    /// Of a StatefulSet: what its pods are of, and what they are to become.
    current_revision: Option<String>,
    update_revision: Option<String>,
}

pub fn pods(client: &Client, namespace: &str) -> Api<Pod> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<core::v1::Pod>(&()))
}

pub fn nodes(client: &Client) -> Api<Node> {
    Api::all_with(client.clone(), &ApiResource::erase::<core::v1::Node>(&()))
}

pub fn workload_resource(kind: WorkloadKind) -> ApiResource {
    match kind {
        WorkloadKind::Deployment => ApiResource::erase::<apps::v1::Deployment>(&()),
        WorkloadKind::StatefulSet => ApiResource::erase::<apps::v1::StatefulSet>(&()),
    }
}

pub fn workloads(client: &Client, namespace: &str, kind: WorkloadKind) -> Api<Workload> {
    Api::namespaced_with(client.clone(), namespace, &workload_resource(kind))
}

/// Replicas asked for; the API server's own default where it is not said.
pub fn replicas(workload: &Workload) -> i32 {
    workload.spec.replicas.unwrap_or(1)
}

pub fn pod_seen(pod: Pod) -> PodSeen {
    let running = |name: &str| {
        let statuses = pod.status.as_ref().map(|status| status.container_statuses.as_slice()).unwrap_or_default();
        let found = statuses.iter().find(|status| status.name == name && status.state.contains_key("running"))?;
        Some((name.to_owned(), found.container_id.clone()?))
    };
    let containers = pod.spec.containers.iter().filter_map(|container| running(&container.name)).collect();
    let statuses = pod.status.as_ref().map(|status| status.container_statuses.as_slice()).unwrap_or_default();
    let digest = |container: &Container| {
        let known = statuses.iter().find(|status| status.name == container.name && !status.image_id.is_empty());
        known.map_or(&container.image, |status| &status.image_id).clone()
    };
    PodSeen {
        containers,
        liveness: pod.spec.liveness(),
        host_network: pod.spec.host_network,
        owner: owner(&pod),
        images: pod.spec.containers.iter().map(digest).collect(),
        ended: pod.status.as_ref().is_some_and(|status| ["Succeeded", "Failed"].contains(&status.phase.as_str())),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.node_name,
        ready: is_ready(pod.status.as_ref()),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        labels: pod.metadata.labels.unwrap_or_default(),
    }
}

/// What owns a pod. A Deployment names its ReplicaSets after itself and the hash that it also labels their pods with.
fn owner(pod: &Pod) -> Option<WorkloadKey> {
    const HASH: &str = "pod-template-hash";
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    let namespace = pod.namespace().unwrap_or_default();
    let of_deployment = pod.labels().get(HASH).and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(match of_deployment {
        Some(name) if owner.kind == "ReplicaSet" => {
            WorkloadKey { namespace, kind: WorkloadKind::Deployment.to_string(), name: name.to_owned() }
        }
        Some(_) | None => WorkloadKey { namespace, kind: owner.kind.clone(), name: owner.name.clone() },
    })
}

/// A rollout under way: pods of an older revision are left, or new ones are not all there yet. A Deployment says so in
/// its condition, which a replaced pod or another number of them does not change.
fn rolling(status: &WorkloadStatus) -> Option<String> {
    let WorkloadStatus { replicas, updated_replicas: updated, conditions, current_revision, update_revision, .. } = status;
    if let (Some(current), Some(update)) = (current_revision, update_revision) {
        return (current != update).then(|| format!("{updated} of {replicas} replicas are of the new revision"));
    }
    if updated < replicas {
        return Some(format!("{updated} of {replicas} replicas are updated"));
    }
    let progress = conditions.iter().find(|condition| condition.kind == "Progressing")?;
    let under_way = ["NewReplicaSetCreated", "FoundNewReplicaSet", "ReplicaSetUpdated"].contains(&progress.reason.as_str());
    under_way.then(|| format!("{} of {replicas} replicas are ready", status.ready_replicas))
}

pub fn node_seen(node: Node) -> NodeSeen {
    NodeSeen {
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        ready: is_ready(node.status.as_ref()),
        schedulable: !node.spec.unschedulable,
        held_by: node.labels().get(LABEL_HELD_BY).cloned(),
        labels: node.metadata.labels.unwrap_or_default(),
    }
}

pub fn workload_seen(workload: &Workload) -> WorkloadSeen {
    let status = workload.status.clone().unwrap_or_default();
    let WorkloadStatus { replicas: observed, ready_replicas: ready, .. } = status;
    WorkloadSeen {
        rolling: rolling(&status),
        uid: workload.uid().unwrap_or_default(),
        replicas: replicas(workload),
        observed,
        ready,
        pod_labels: workload.spec.template.metadata.labels.clone(),
        held_by: workload.labels().get(LABEL_HELD_BY).cloned(),
    }
}

fn is_ready(status: Option<&PodStatus>) -> bool {
    status.is_some_and(|status| status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True"))
}

pub fn budget_shown(budget: PodDisruptionBudget) -> BudgetShown {
    let count = |count: i32| usize::try_from(count).unwrap_or(0);
    let status = budget.status.clone().unwrap_or_default();
    // The same fields under the same names.
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.and_then(|selector| serde_json::from_value(serde_json::to_value(selector).ok()?).ok());
    BudgetShown {
        namespace: budget.namespace().unwrap_or_default(),
        name: budget.name_any(),
        selector,
        desired_healthy: count(status.desired_healthy),
        expected: count(status.expected_pods),
        counted: budget.metadata.generation.is_some() && budget.metadata.generation == status.observed_generation,
    }
}

pub fn autoscaler_shown(scaler: HorizontalPodAutoscaler) -> AutoscalerShown {
    let count = |count: i32| usize::try_from(count).unwrap_or(0);
    let namespace = scaler.namespace().unwrap_or_default();
    let target = scaler.spec.as_ref().map(|spec| spec.scale_target_ref.clone()).unwrap_or_default();
    AutoscalerShown {
        workload: WorkloadKey { namespace: namespace.clone(), kind: target.kind, name: target.name },
        name: scaler.name_any(),
        namespace,
        current: count(scaler.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0)),
        max: count(scaler.spec.as_ref().map(|spec| spec.max_replicas).unwrap_or(0)),
    }
}
