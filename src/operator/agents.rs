//! Agents' pods: made on the nodes that a run needs, removed when nobody has needed them for a while.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;

use crate::api::{AGENT, ANNOTATION_CANNOT, ANNOTATION_FAULTS, FaultKind};
use crate::cluster::client::ask;
use crate::cluster::{Change, follow};
use crate::engine::AgentSeen;

use super::desk::{Desk, lock};

/// An agent that nobody has needed for so long is removed: long enough for the next experiment of a morning.
const IDLE: Duration = Duration::from_secs(300);
/// An agent says that it is there every five seconds; three times that without a word, and it does not answer.
const SILENT: Duration = Duration::from_secs(15);
/// An order that an agent was ready for is seen by then: a write, and the news of it.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// An agent that its kubelet restarts ever more slowly is replaced by a new one when it is so old; younger, it may be one
/// that cannot start at all.
const BACK_OFF: SignedDuration = SignedDuration::from_secs(20);
/// A pod that its node did not take, or threw out, is followed by another after so long.
const FAILED_PAUSE: Duration = Duration::from_secs(5);
/// For so long why it failed is said with what its successor does.
const FAILED_SAID: Duration = Duration::from_secs(20);
/// What is wanted is looked at again so often, whatever the watches say.
const LOOK: Duration = Duration::from_secs(1);

pub struct Agents {
    pub namespace: String,
    operator: String,
    source: Source,
    image: Option<String>,
    client: Client,
    wanted: Mutex<BTreeMap<String, Wanted>>,
    pods: Mutex<HashMap<String, Pod>>,
    leases: Mutex<HashMap<String, (Lease, Instant)>>,
    refused: Mutex<BTreeMap<String, String>>,
    /// By node: when the last pod there failed, and why.
    failed: Mutex<BTreeMap<String, (Instant, String)>>,
    /// Uids of agents that were there before this operator led: each is given the same time as one of its own.
    adopted: Mutex<BTreeSet<String>>,
    news: Notify,
}

struct Wanted {
    faults: BTreeSet<FaultKind>,
    at: Instant,
    /// When somebody was last content with the agent that is there: an order to it may be on its way.
    content: Option<Instant>,
}

/// Where agents come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The operator makes them on the nodes that a run needs, and removes them when they are idle.
    #[default]
    OnDemand,
    /// A DaemonSet: one on each node, always.
    Standing,
}

impl Wanted {
    fn new(faults: BTreeSet<FaultKind>) -> Self {
        Wanted { faults, at: Instant::now(), content: None }
    }
}

/// The namespace of agents and of their orders.
pub fn namespace(operator: &str) -> String {
    format!("{operator}-agents")
}

impl Agents {
    pub fn new(client: &Client, operator: &str, source: Source, image: Option<String>) -> Self {
        Agents {
            namespace: namespace(operator),
            operator: operator.to_owned(),
            source,
            image,
            client: client.clone(),
            wanted: Mutex::default(),
            pods: Mutex::default(),
            leases: Mutex::default(),
            refused: Mutex::default(),
            failed: Mutex::default(),
            adopted: Mutex::default(),
            news: Notify::new(),
        }
    }

    pub fn operator_namespace(&self) -> &str {
        &self.operator
    }

    /// Does not wait. Whether more was asked for than before: then [`Agents::seen`] has more to say.
    pub fn need(&self, nodes: &BTreeMap<String, BTreeSet<FaultKind>>) -> bool {
        let (mut wanted, pods) = (lock(&self.wanted), lock(&self.pods));
        let mut more = false;
        for (node, faults) in nodes {
            let known = wanted.entry(node.clone()).or_insert_with(|| Wanted::new(BTreeSet::new()));
            more |= !known.faults.is_superset(faults);
            known.faults.extend(faults);
            known.at = Instant::now();
            if pods.values().any(|pod| node_of(pod) == Some(node) && faults_of(pod).is_superset(faults)) {
                known.content = Some(known.at);
            }
        }
        self.news.notify_one();
        more
    }

    /// As far as is known of the nodes that were asked for.
    pub fn seen(&self) -> BTreeMap<String, AgentSeen> {
        let (wanted, pods, leases) = (lock(&self.wanted), lock(&self.pods), lock(&self.leases));
        let (refused, failed) = (lock(&self.refused), lock(&self.failed));
        let mut seen = BTreeMap::new();
        for (node, wanted) in wanted.iter() {
            let pod = pods.values().find(|pod| node_of(pod) == Some(node));
            let state = match pod {
                _ if self.source == Source::OnDemand && self.image.is_none() => {
                    AgentSeen::Cannot("the operator was started without --agent-image".to_owned())
                }
                None => match refused.get(node) {
                    Some(why) => AgentSeen::Cannot(why.clone()),
                    None if failed.contains_key(node) => AgentSeen::Starting(failed[node].1.clone()),
                    None if self.source == Source::Standing => AgentSeen::Starting("the DaemonSet has none there".to_owned()),
                    None => AgentSeen::Starting("asked for".to_owned()),
                },
                Some(pod) if pod.metadata.deletion_timestamp.is_some() => AgentSeen::Starting("another is going away".to_owned()),
                Some(pod) if !faults_of(pod).is_superset(&wanted.faults) => {
                    AgentSeen::Starting("it has not the capabilities; it is replaced when it is idle".to_owned())
                }
                Some(pod) => match (state(pod, leases.get(node)), failed.get(node)) {
                    (AgentSeen::Starting(now), Some((_, before))) => AgentSeen::Starting(format!("{now}; before, {before}")),
                    (state, _) => state,
                },
            };
            seen.insert(node.clone(), state);
        }
        seen
    }

    async fn tend(&self, busy: &BTreeSet<String>) {
        let (Source::OnDemand, Some(image)) = (self.source, &self.image) else { return };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let pods: Vec<Pod> = lock(&self.pods).values().cloned().collect();
        let wanted: BTreeMap<String, BTreeSet<FaultKind>> = {
            let (mut wanted, mut adopted) = (lock(&self.wanted), lock(&self.adopted));
            for pod in &pods {
                if let (Some(node), true) = (node_of(pod), adopted.insert(pod.uid().unwrap_or_default())) {
                    wanted.entry(node.clone()).or_insert_with(|| Wanted::new(faults_of(pod)));
                }
            }
            wanted.retain(|node, wanted| wanted.at.elapsed() < IDLE || busy.contains(node));
            wanted.iter().map(|(node, wanted)| (node.clone(), wanted.faults.clone())).collect()
        };
        let content = |node: &str| {
            lock(&self.wanted).get(node).and_then(|wanted| wanted.content).is_some_and(|at| at.elapsed() < ON_ITS_WAY)
        };
        lock(&self.failed).retain(|_, (at, _)| at.elapsed() < FAILED_SAID);
        let pauses = |node: &str| lock(&self.failed).get(node).is_some_and(|(at, _)| at.elapsed() < FAILED_PAUSE);
        for (node, faults) in &wanted {
            if pauses(node) || pods.iter().any(|pod| node_of(pod) == Some(node)) {
                continue;
            }
            match ask(api.create(&PostParams::default(), &pod(image, &self.operator, node, faults))).await {
                Ok(_) => {
                    lock(&self.refused).remove(node);
                }
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    tracing::warn!(node, %error, "an agent could not be made");
                    lock(&self.refused).insert(node.clone(), error.in_words());
                }
            }
        }
        for pod in pods {
            let Some(node) = node_of(&pod) else { continue };
            let lacks = wanted.get(node).is_some_and(|faults| !faults_of(&pod).is_superset(faults));
            let ended = matches!(phase(&pod), "Failed" | "Succeeded") || is_backing_off(&pod, Timestamp::now());
            let useless = (!wanted.contains_key(node) || lacks && !content(node)) && !busy.contains(node) || ended;
            if useless && pod.metadata.deletion_timestamp.is_none() {
                if let Some(why) = failure(&pod) {
                    lock(&self.failed).insert(node.clone(), (Instant::now(), why));
                }
                let uid = Some(Preconditions { uid: pod.uid(), resource_version: None });
                let params = DeleteParams { preconditions: uid, ..DeleteParams::default() };
                if let Err(error) = ask(api.delete(&pod.name_any(), &params)).await {
                    tracing::warn!(node, %error, "an agent could not be removed");
                }
            }
        }
    }
}

/// Follows agents, and makes and removes them, for ever.
pub async fn tend(desk: &Arc<Desk>) {
    let agents = &desk.agents;
    let config = || watcher::Config::default().labels(&format!("app.kubernetes.io/name={AGENT}"));
    let pods = follow(Api::<Pod>::namespaced(desk.client.clone(), &agents.namespace), config(), "agents", |change| {
        let mut pods = lock(&agents.pods);
        match change {
            Change::Is(pod) => {
                pods.insert(pod.uid().unwrap_or_default(), pod);
            }
            Change::Gone(pod) => {
                pods.remove(pod.uid().as_deref().unwrap_or_default());
            }
            Change::Only(uids) => pods.retain(|uid, _| uids.contains(uid)),
        }
        drop(pods);
        desk.news();
        agents.news.notify_one();
    });
    let leases = follow(
        Api::<Lease>::namespaced(desk.client.clone(), &agents.namespace),
        watcher::Config::default(),
        "agents' leases",
        |change| {
            let mut leases = lock(&agents.leases);
            match change {
                Change::Is(lease) => {
                    leases.insert(lease.name_any(), (lease, Instant::now()));
                }
                Change::Gone(lease) => {
                    leases.remove(&lease.name_any());
                }
                Change::Only(uids) => leases.retain(|_, (lease, _)| lease.uid().is_some_and(|uid| uids.contains(&uid))),
            }
            drop(leases);
            desk.news();
        },
    );
    let making = async {
        loop {
            agents.tend(&desk.busy_nodes()).await;
            // Either way it is looked at again.
            let _ = tokio::time::timeout(LOOK, agents.news.notified()).await;
        }
    };
    tokio::join!(pods, leases, making);
}

fn state(pod: &Pod, lease: Option<&(Lease, Instant)>) -> AgentSeen {
    if phase(pod) != "Running" {
        let waiting = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let why = waiting.filter_map(|status| status.state.as_ref()?.waiting.as_ref()).find_map(|waiting| {
            Some(format!("{}: {}", waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
        });
        return AgentSeen::Starting(why.unwrap_or_else(|| "its pod starts".to_owned()));
    }
    let Some((lease, at)) = lease else { return AgentSeen::Starting("it has not said anything yet".to_owned()) };
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
    if Some(holder.as_str()) != pod.uid().as_deref() {
        return AgentSeen::Starting("it has not said anything yet".to_owned());
    }
    if at.elapsed() > SILENT {
        return AgentSeen::Starting(format!("it has said nothing for {:?}", at.elapsed()));
    }
    let cannot = lease.annotations().get(ANNOTATION_CANNOT).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    AgentSeen::Ready { faults: faults_of(pod), cannot }
}

/// Why its node did not take this pod, or threw it out.
fn failure(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Failed"))?;
    let said = [&status.reason, &status.message].into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
    Some(format!("its pod failed: {}", said.join(": ")))
}

fn node_of(pod: &Pod) -> Option<&String> {
    pod.spec.as_ref()?.node_name.as_ref()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether its container was killed so often that the kubelet lets it wait. What it held has ended with it, and only an
/// agent can say so.
fn is_backing_off(pod: &Pod, now: Timestamp) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    let is_old = pod.metadata.creation_timestamp.as_ref().is_some_and(|made| now.duration_since(made.0) > BACK_OFF);
    is_old && waiting.any(|reason| reason == "CrashLoopBackOff")
}

fn faults_of(pod: &Pod) -> BTreeSet<FaultKind> {
    let names = pod.annotations().get(ANNOTATION_FAULTS).map_or("", String::as_str);
    FaultKind::held().filter(|kind| names.split(',').any(|name| name == kind.name())).collect()
}

/// What holders of this fault need to begin; most of it is dropped before the fault is in force. To reach a target's
/// cgroup, files or network by its process is SYS_PTRACE; what uid 0 may not read or write in it is DAC.
fn capabilities(fault: FaultKind) -> &'static [&'static str] {
    match fault {
        FaultKind::Network => &["SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "NET_RAW", "SYS_NICE"],
        FaultKind::Files => &["SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"],
        FaultKind::DiskFill | FaultKind::DiskIo => &["SYS_PTRACE", "DAC_OVERRIDE"],
        FaultKind::Pause | FaultKind::Cpu | FaultKind::Memory | FaultKind::Processes => &["SYS_PTRACE"],
        FaultKind::ContainerKill => &["KILL"],
        FaultKind::PodKill | FaultKind::PodEvict | FaultKind::Scale | FaultKind::Cordon => &[],
    }
}

fn pod(image: &str, operator: &str, node: &str, faults: &BTreeSet<FaultKind>) -> Pod {
    let mut pod = template(image, operator, node, faults);
    pod["metadata"]["name"] = json!(format!("agent-{node}"));
    pod["spec"]["nodeName"] = json!(node);
    serde_json::from_value(pod).expect("this is a pod")
}

/// An agent's pod for these faults, without a name: of one node, or of a DaemonSet where `node` is a reference to the
/// variable `NODE_NAME`.
pub fn template(image: &str, operator: &str, node: &str, faults: &BTreeSet<FaultKind>) -> serde_json::Value {
    let add: BTreeSet<&str> = faults.iter().flat_map(|fault| capabilities(*fault)).copied().collect();
    let faults = faults.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(",");
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "labels": {"app.kubernetes.io/name": AGENT},
            "annotations": {ANNOTATION_FAULTS: faults},
        },
        "spec": {
            "serviceAccountName": AGENT,
            "hostPID": true,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 5,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "agent",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["agent", "--node", node, "--operator-namespace", operator, "--faults", faults],
                "env": [
                    field("POD_UID", "metadata.uid"),
                    field("POD_NAMESPACE", "metadata.namespace"),
                    field("NODE_NAME", "spec.nodeName"),
                    // From where the kubelet probes.
                    field("NODE_ADDRESSES", "status.hostIPs"),
                ],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
                "securityContext": {
                    "runAsUser": 0,
                    "runAsGroup": 0,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"], "add": add},
                    "seccompProfile": {"type": "RuntimeDefault"},
                    // The runtime's profile lets a container look only at others under the same one.
                    "appArmorProfile": {"type": "Unconfined"},
                },
            }],
        },
    })
}

/// One agent on each node, always, for every fault.
pub fn daemon_set(image: &str, operator: &str) -> serde_json::Value {
    let pod = template(image, operator, "$(NODE_NAME)", &FaultKind::held().collect());
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": AGENT, "namespace": namespace(operator), "labels": {"app.kubernetes.io/name": AGENT}},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": AGENT}},
            "template": {"metadata": pod["metadata"], "spec": pod["spec"]},
        },
    })
}
