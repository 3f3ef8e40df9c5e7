//! What there is in the cluster: pods, nodes, workloads and namespaces, watched for as long as this process leads, so
//! that a run that begins need not ask first. Each run looks at its own part of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Namespace, Pod as CorePod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ApiResource, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::{Selector, WorkloadKind, WorkloadRef};
use crate::engine::admit::Candidates;
use crate::engine::guardrail::{AutoscalerShown, BudgetShown, NodeShown, Picture, PodShown, WorkloadShown};
use crate::engine::{NodeSeen, Plan, PodSeen, WorkloadKey, WorkloadSeen};

use super::follow::{Change, follow};
use super::objects;

/// Objects in one page of a list: bounds what is in memory at once while listing.
const PAGE: u32 = 250;
/// These watches are taken up again half as often as others: what is done has the uid as a precondition, and when nothing
/// happens an idle operator should be quiet.
const WATCH_SECONDS: u32 = 120;

const PODS: &str = "pods";

/// Ends its watches when it is dropped.
pub struct Inventory {
    store: Arc<Mutex<Store>>,
    _watches: JoinSet<()>,
}

/// What a watch sees of one kind of object, by namespace and then by uid. Nodes have no namespace.
type Shelf<T> = HashMap<String, HashMap<String, T>>;

#[derive(Default)]
struct Store {
    pods: Shelf<PodSeen>,
    nodes: Shelf<NodeSeen>,
    deployments: Shelf<(String, WorkloadSeen)>,
    stateful_sets: Shelf<(String, WorkloadSeen)>,
    budgets: Shelf<BudgetShown>,
    autoscalers: Shelf<AutoscalerShown>,
    /// Labels of namespaces.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Counts changes.
    version: u64,
    /// Names of namespaces that are being deleted, or were.
    ended: HashSet<String>,
    /// First lists that have not arrived yet.
    awaited: usize,
    views: HashMap<u64, Looking>,
    next_view: u64,
}

/// Who looks at what.
struct Looking {
    scope: Arc<Scope>,
    changed: Arc<Notify>,
    /// Uids of pods of the namespace whose deletion was seen.
    gone: BTreeSet<String>,
}

/// The part of the cluster that a run is about.
#[derive(Debug)]
struct Scope {
    namespace: String,
    selectors: Vec<Selector>,
    workloads: Vec<WorkloadRef>,
    nodes: bool,
}

impl Scope {
    fn of(namespace: &str, plan: &Plan) -> Self {
        let mut scope = Scope { namespace: namespace.to_owned(), selectors: Vec::new(), workloads: Vec::new(), nodes: false };
        for planned in &plan.experiments {
            match &planned.candidates {
                Candidates::Pods(selector) if scope.selectors.contains(selector) => {}
                Candidates::Pods(selector) => scope.selectors.push(selector.clone()),
                Candidates::Nodes(_) => scope.nodes = true,
                Candidates::Workload(workload) => scope.workloads.push(workload.clone()),
            }
        }
        scope
    }

    fn has_pod(&self, pod: &PodSeen) -> bool {
        self.selectors.iter().any(|selector| selector.matches(&pod.labels))
    }
}

/// What is there, as last seen.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    pub pods: Vec<PodSeen>,
    /// Uids of pods whose deletion was seen. The watch is of all pods, so that an event of deletion means that and
    /// nothing else; one that is only missing from a list may be newer than the list.
    pub gone: BTreeSet<String>,
    pub nodes: Vec<NodeSeen>,
    pub workloads: BTreeMap<WorkloadRef, Option<WorkloadSeen>>,
    /// The namespace is being deleted, and the run with it, only later.
    pub namespace_ends: bool,
    pub synced: bool,
}

impl Inventory {
    /// Starts to watch.
    pub fn start(client: &Client) -> Self {
        let mut watches = Watches { store: Arc::default(), tasks: JoinSet::new() };
        let everywhere = |resource: ApiResource| Api::all_with(client.clone(), &resource);
        watches.add(
            Api::all_with(client.clone(), &ApiResource::erase::<CorePod>(&())),
            PODS,
            |store| &mut store.pods,
            objects::pod_seen,
            |before, after, scope| [before, after].into_iter().flatten().any(|pod| scope.has_pod(pod)),
        );
        watches.add(
            objects::nodes(client),
            "nodes",
            |store| &mut store.nodes,
            objects::node_seen,
            |before, after, scope| scope.nodes && before != after,
        );
        let named = |workload: objects::Workload| (workload.name_any(), objects::workload_seen(&workload));
        for (kind, what) in [(WorkloadKind::Deployment, "deployments"), (WorkloadKind::StatefulSet, "statefulsets")] {
            watches.add(
                everywhere(objects::workload_resource(kind)),
                what,
                move |store| match kind {
                    WorkloadKind::Deployment => &mut store.deployments,
                    WorkloadKind::StatefulSet => &mut store.stateful_sets,
                },
                named,
                move |before, after, scope| {
                    let name = [before, after].into_iter().flatten().map(|(name, _)| name).next();
                    let is = |workload: &WorkloadRef| workload.kind == kind && Some(&workload.name) == name;
                    before != after && scope.workloads.iter().any(is)
                },
            );
        }
        // What is asked of guardrails is asked again each second: no run is woken for it.
        let budgets: Api<PodDisruptionBudget> = Api::all(client.clone());
        watches.add(budgets, "poddisruptionbudgets", |store| &mut store.budgets, objects::budget_shown, |_, _, _| false);
        let autoscalers: Api<HorizontalPodAutoscaler> = Api::all(client.clone());
        watches.add(
            autoscalers,
            "horizontalpodautoscalers",
            |store| &mut store.autoscalers,
            objects::autoscaler_shown,
            |_, _, _| false,
        );
        watches.add_namespaces(client);
        Inventory { store: watches.store, _watches: watches.tasks }
    }

    /// Counts changes: what was made of an older one is out of date.
    pub fn version(&self) -> u64 {
        lock(&self.store).version
    }

    pub fn is_synced(&self) -> bool {
        lock(&self.store).awaited == 0
    }

    /// The id of the container that runs under this name in a pod now.
    pub fn container(&self, namespace: &str, pod_uid: &str, name: &str) -> Option<String> {
        let store = lock(&self.store);
        let pod = store.pods.get(namespace)?.get(pod_uid)?;
        pod.containers.iter().find(|(known, _)| known == name).map(|(_, id)| id.clone())
    }

    /// The cluster as guardrails look at it, with nothing in force.
    pub fn picture(&self) -> Picture {
        let store = lock(&self.store);
        let pods = store.pods.iter().flat_map(|(namespace, pods)| pods.values().map(move |pod| (namespace, pod)));
        let workloads = |shelf: &Shelf<(String, WorkloadSeen)>, kind: WorkloadKind| {
            let all = shelf.iter().flat_map(|(namespace, kept)| kept.values().map(move |found| (namespace, found)));
            let shown = all.map(|(namespace, (name, seen))| {
                let key = WorkloadKey { namespace: namespace.clone(), kind: kind.to_string(), name: name.clone() };
                let WorkloadSeen { replicas, pod_labels, rolling, .. } = seen.clone();
                (key, WorkloadShown { replicas: usize::try_from(replicas).unwrap_or(0), pod_labels, rolling })
            });
            shown.collect::<Vec<_>>()
        };
        let sets = workloads(&store.stateful_sets, WorkloadKind::StatefulSet);
        Picture {
            synced: store.awaited == 0,
            namespaces: store.namespaces.clone(),
            workloads: workloads(&store.deployments, WorkloadKind::Deployment).into_iter().chain(sets).collect(),
            pods: pods.filter(|(_, pod)| !pod.ended).map(|(namespace, pod)| pod_shown(namespace, pod)).collect(),
            nodes: store.nodes.values().flat_map(HashMap::values).map(node_shown).collect(),
            budgets: store.budgets.values().flat_map(HashMap::values).cloned().collect(),
            autoscalers: store.autoscalers.values().flat_map(HashMap::values).cloned().collect(),
            ..Picture::default()
        }
    }

    /// A run's view of it. `changed` is notified of every change in it.
    pub fn view(self: &Arc<Self>, namespace: &str, plan: &Plan, changed: &Arc<Notify>) -> View {
        let scope = Arc::new(Scope::of(namespace, plan));
        let mut store = lock(&self.store);
        let number = store.next_view;
        store.next_view += 1;
        store.views.insert(number, Looking { scope: Arc::clone(&scope), changed: Arc::clone(changed), gone: BTreeSet::new() });
        drop(store);
        View { inventory: Arc::clone(self), number, scope }
    }
}

/// What one run sees.
pub struct View {
    inventory: Arc<Inventory>,
    number: u64,
    scope: Arc<Scope>,
}

impl View {
    pub fn stock(&self) -> Stock {
        let store = lock(&self.inventory.store);
        let scope = &self.scope;
        let mut pods: Vec<PodSeen> = store
            .pods
            .get(&scope.namespace)
            .into_iter()
            .flat_map(HashMap::values)
            .filter(|pod| scope.has_pod(pod))
            .cloned()
            .collect();
        pods.sort_by(|a, b| a.uid.cmp(&b.uid));
        let workload = |workload: &WorkloadRef| {
            let shelf = match workload.kind {
                WorkloadKind::Deployment => &store.deployments,
                WorkloadKind::StatefulSet => &store.stateful_sets,
            };
            let found = shelf.get(&scope.namespace)?.values().find(|(name, _)| *name == workload.name)?;
            Some(found.1.clone())
        };
        let nodes = store.nodes.values().filter(|_| scope.nodes).flat_map(HashMap::values).cloned().collect();
        let synced = store.awaited == 0;
        let workloads = scope.workloads.iter().filter(|_| synced).map(|named| (named.clone(), workload(named))).collect();
        let gone = store.views.get(&self.number).map(|looking| looking.gone.clone()).unwrap_or_default();
        Stock { pods, gone, nodes, workloads, namespace_ends: store.ended.contains(&scope.namespace), synced }
    }

    pub fn is_synced(&self) -> bool {
        self.inventory.is_synced()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        lock(&self.inventory.store).views.remove(&self.number);
    }
}

struct Watches {
    store: Arc<Mutex<Store>>,
    tasks: JoinSet<()>,
}

impl Watches {
    /// Follows one kind of object. `concerns`: whether a change from one to another is news in a scope.
    fn add<K, T>(
        &mut self,
        api: Api<K>,
        what: &'static str,
        shelf: impl Fn(&mut Store) -> &mut Shelf<T> + Send + 'static,
        seen: impl Fn(K) -> T + Send + 'static,
        concerns: impl Fn(Option<&T>, Option<&T>, &Scope) -> bool + Send + 'static,
    ) where
        K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
        T: Clone + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        lock(&store).awaited += 1;
        let buries = what == PODS;
        let mut listed = false;
        self.tasks.spawn(follow(api, config(), what, move |change| {
            let mut store = lock(&store);
            let mut deleted = None;
            store.version += 1;
            let (place, before, after) = match change {
                Change::Is(object) => {
                    let (namespace, uid) = place(&object);
                    let after = seen(object);
                    let before = shelf(&mut store).entry(namespace.clone()).or_default().insert(uid, after.clone());
                    (namespace, before, Some(after))
                }
                Change::Gone(object) => {
                    let (namespace, uid) = place(&object);
                    let before = shelf(&mut store).get_mut(&namespace).and_then(|kept| kept.remove(&uid));
                    deleted = Some(uid);
                    (namespace, before, None)
                }
                Change::Only(uids) => {
                    for kept in shelf(&mut store).values_mut() {
                        kept.retain(|uid, _| uids.contains(uid));
                    }
                    return listed_once(&mut listed, &mut store);
                }
            };
            // During the first list there is nothing to decide yet.
            if !listed {
                return;
            }
            for Looking { scope, changed, gone } in store.views.values_mut() {
                if place == scope.namespace && buries {
                    gone.extend(deleted.clone());
                }
                if (place.is_empty() || place == scope.namespace) && concerns(before.as_ref(), after.as_ref(), scope) {
                    changed.notify_one();
                }
            }
        }));
    }

    fn add_namespaces(&mut self, client: &Client) {
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
        let store = Arc::clone(&self.store);
        lock(&store).awaited += 1;
        let mut listed = false;
        let mut names: HashMap<String, String> = HashMap::new();
        self.tasks.spawn(follow(namespaces, config(), "namespaces", move |change| {
            let mut store = lock(&store);
            store.version += 1;
            match change {
                Change::Is(namespace) => {
                    let name = namespace.name_any();
                    store.namespaces.insert(name.clone(), namespace.labels().clone());
                    names.insert(namespace.uid().unwrap_or_default(), name.clone());
                    if namespace.metadata.deletion_timestamp.is_none() {
                        store.ended.remove(&name);
                    } else {
                        store.ends(name);
                    }
                }
                Change::Gone(namespace) => {
                    names.remove(&namespace.uid().unwrap_or_default());
                    store.ends(namespace.name_any());
                }
                Change::Only(uids) => {
                    let gone: Vec<String> =
                        names.iter().filter(|(uid, _)| !uids.contains(*uid)).map(|(_, name)| name.clone()).collect();
                    names.retain(|uid, _| uids.contains(uid));
                    for name in gone.into_iter().filter(|name| !names.values().any(|there| there == name)) {
                        store.ends(name);
                    }
                    listed_once(&mut listed, &mut store);
                }
            }
        }));
    }
}

impl Store {
    fn ends(&mut self, namespace: String) {
        for Looking { scope, changed, .. } in self.views.values() {
            if scope.namespace == namespace {
                changed.notify_one();
            }
        }
        self.namespaces.remove(&namespace);
        self.ended.insert(namespace);
    }
}

fn pod_shown(namespace: &str, pod: &PodSeen) -> PodShown {
    PodShown {
        namespace: namespace.to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        labels: pod.labels.clone(),
        node: pod.node.clone(),
        owner: pod.owner.clone(),
        ready: pod.ready,
        terminating: pod.terminating,
        images: pod.images.clone(),
    }
}

fn node_shown(node: &NodeSeen) -> NodeShown {
    NodeShown {
        name: node.name.clone(),
        uid: node.uid.clone(),
        labels: node.labels.clone(),
        zone: node.labels.get("topology.kubernetes.io/zone").cloned(),
        ready: node.ready,
        schedulable: node.schedulable,
    }
}

fn config() -> watcher::Config {
    // Not from any cache: after a failover it may be older than what was seen, and a page of it is the whole list.
    watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS)
}

fn place(object: &impl ResourceExt) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.uid().unwrap_or_default())
}

/// A list has arrived: every view may have changed by it.
fn listed_once(listed: &mut bool, store: &mut Store) {
    if !std::mem::replace(listed, true) {
        store.awaited -= 1;
    }
    for Looking { changed, .. } in store.views.values() {
        changed.notify_one();
    }
}

/// A store is whole between two changes, whatever became of the thread that made them.
fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
