//! What one run needs to see: the pods that its selectors match, nodes if it touches any, and the workloads it
//! names. Watched from the run's start to its end, and dropped with it: without a run, nothing is watched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::watcher;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::{Selector, WorkloadRef};
use crate::engine::admit::Candidates;
use crate::engine::{NodeSeen, Plan, PodSeen, WorkloadSeen};

use super::follow::{Change, follow};
use super::objects;

/// Objects in one page of a list: bounds what is in memory at once while listing.
const PAGE: u32 = 500;

pub struct Inventory {
    store: Arc<Mutex<Store>>,
    /// Ended when this is dropped.
    _watches: JoinSet<()>,
}

#[derive(Default)]
struct Store {
    /// By selector, then by uid.
    pods: Vec<HashMap<String, PodSeen>>,
    nodes: HashMap<String, NodeSeen>,
    workloads: BTreeMap<WorkloadRef, Option<WorkloadSeen>>,
    namespace_ends: bool,
    /// First lists that have not arrived yet.
    awaited: usize,
}

/// What is there, as last seen.
#[derive(Clone, Debug, Default)]
pub struct Stock {
    pub pods: Vec<PodSeen>,
    pub nodes: Vec<NodeSeen>,
    pub workloads: BTreeMap<WorkloadRef, Option<WorkloadSeen>>,
    /// The namespace is being deleted, and the run with it, only later.
    pub namespace_ends: bool,
    pub synced: bool,
}

impl Inventory {
    /// Starts to watch what this plan needs. `changed` is notified on every change.
    pub fn start(client: &Client, namespace: &str, plan: &Plan, changed: &Arc<Notify>) -> Self {
        let mut selectors: Vec<&Selector> = Vec::new();
        let mut workloads: Vec<WorkloadRef> = Vec::new();
        let mut touches_nodes = false;
        for planned in &plan.experiments {
            match &planned.candidates {
                Candidates::Pods(selector) if selectors.contains(&selector) => {}
                Candidates::Pods(selector) => selectors.push(selector),
                Candidates::Nodes(_) => touches_nodes = true,
                Candidates::Workload(workload) => workloads.push(workload.clone()),
            }
        }
        workloads.sort();
        workloads.dedup();

        let store = Arc::new(Mutex::new(Store {
            pods: vec![HashMap::new(); selectors.len()],
            awaited: selectors.len() + usize::from(touches_nodes) + workloads.len(),
            ..Store::default()
        }));
        let shelf = |store: &Arc<Mutex<Store>>| Shelf { store: Arc::clone(store), changed: Arc::clone(changed), listed: false };
        let config = || watcher::Config::default().any_semantic().page_size(PAGE);
        let mut watches = JoinSet::new();
        for (index, selector) in selectors.iter().enumerate() {
            let mut shelf = shelf(&store);
            let config = config().labels(&selector.to_string());
            watches.spawn(follow(objects::pods(client, namespace), config, "pods", move |change| {
                shelf.put(change, |store| &mut store.pods[index], objects::pod_seen);
            }));
        }
        if touches_nodes {
            let mut shelf = shelf(&store);
            watches.spawn(follow(objects::nodes(client), config(), "nodes", move |change| {
                shelf.put(change, |store| &mut store.nodes, objects::node_seen);
            }));
        }
        for workload in workloads {
            let mut shelf = shelf(&store);
            let config = config().fields(&format!("metadata.name={}", workload.name));
            watches.spawn(follow(objects::workloads(client, namespace, workload.kind), config, "workload", move |change| {
                shelf.put_workload(change, &workload);
            }));
        }
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
        let (kept, news) = (Arc::clone(&store), Arc::clone(changed));
        watches.spawn(follow(namespaces, config().fields(&format!("metadata.name={namespace}")), "namespace", move |change| {
            let ends = match change {
                Change::Is(namespace) => namespace.metadata.deletion_timestamp.is_some(),
                Change::Gone(_) => true,
                Change::Only(uids) => uids.is_empty(),
            };
            if ends {
                lock(&kept).namespace_ends = true;
                news.notify_one();
            }
        }));
        Inventory { store, _watches: watches }
    }

    pub fn stock(&self) -> Stock {
        let store = lock(&self.store);
        let mut pods: BTreeMap<&str, &PodSeen> = BTreeMap::new();
        pods.extend(store.pods.iter().flatten().map(|(uid, pod)| (uid.as_str(), pod)));
        Stock {
            pods: pods.into_values().cloned().collect(),
            nodes: store.nodes.values().cloned().collect(),
            workloads: store.workloads.clone(),
            namespace_ends: store.namespace_ends,
            synced: store.awaited == 0,
        }
    }

    pub fn is_synced(&self) -> bool {
        lock(&self.store).awaited == 0
    }
}

/// Where one watch puts what it sees.
struct Shelf {
    store: Arc<Mutex<Store>>,
    changed: Arc<Notify>,
    listed: bool,
}

impl Shelf {
    fn put<K: kube::Resource, T>(
        &mut self,
        change: Change<K>,
        on: impl Fn(&mut Store) -> &mut HashMap<String, T>,
        seen: impl Fn(K) -> T,
    ) {
        let mut store = lock(&self.store);
        let kept = on(&mut store);
        match change {
            Change::Is(object) => {
                let uid = object.meta().uid.clone().unwrap_or_default();
                kept.insert(uid, seen(object));
            }
            Change::Gone(object) => {
                kept.remove(object.meta().uid.as_deref().unwrap_or_default());
            }
            Change::Only(uids) => {
                kept.retain(|uid, _| uids.contains(uid));
                first_list(&mut self.listed, &mut store);
            }
        }
        // During the first list there is nothing to decide yet.
        if self.listed {
            self.changed.notify_one();
        }
    }

    fn put_workload(&mut self, change: Change<objects::Workload>, workload: &WorkloadRef) {
        let mut store = lock(&self.store);
        let is = |uids: &HashSet<String>, seen: &Option<WorkloadSeen>| seen.as_ref().is_some_and(|seen| uids.contains(&seen.uid));
        match change {
            Change::Is(object) => {
                store.workloads.insert(workload.clone(), Some(objects::workload_seen(&object)));
            }
            Change::Gone(_) => {
                store.workloads.insert(workload.clone(), None);
            }
            Change::Only(uids) => {
                let seen = store.workloads.entry(workload.clone()).or_default();
                if !is(&uids, seen) {
                    *seen = None;
                }
                first_list(&mut self.listed, &mut store);
            }
        }
        if self.listed {
            self.changed.notify_one();
        }
    }
}

fn first_list(listed: &mut bool, store: &mut Store) {
    if !std::mem::replace(listed, true) {
        store.awaited -= 1;
    }
}

/// A store is whole between two changes, whatever became of the thread that made them.
fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
