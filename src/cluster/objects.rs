//! What is read of the cluster's objects, and nothing more: two thousand pods must not fill the memory.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps, core};
use kube::api::{Api, ApiResource, Object};
use kube::{Client, ResourceExt};
use serde::Deserialize;

use crate::api::{LABEL_HELD_BY, WorkloadKind};
use crate::engine::{NodeSeen, PodSeen, WorkloadSeen};

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
struct Container {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
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
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
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
    PodSeen {
        containers,
        host_network: pod.spec.host_network,
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.node_name,
        ready: is_ready(pod.status.as_ref()),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        labels: pod.metadata.labels.unwrap_or_default(),
    }
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
    let WorkloadStatus { replicas: observed, ready_replicas: ready } = workload.status.clone().unwrap_or_default();
    WorkloadSeen {
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
