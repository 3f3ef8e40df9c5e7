//! A cluster of a few nodes, small enough to be read: workloads with a controller, pods that start and end,
//! disruption budgets, Services that answer while a pod is ready. Time moves only when it is told to.
//!
//! It knows nothing of runs. What is done to it is done by uid, as the API server does it.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use crate::api::{Duration, InjectionPhase, Percent, Selector, WorkloadKind, WorkloadRef};
use crate::engine::InjectionSeen;

use super::dice::Dice;

/// A controller sees a lost pod, and acts, after about this long.
const CONTROLLER: Duration = Duration::from_millis(80);
/// A dead pod's address is still routed to for about this long.
const ENDPOINTS: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Cluster {
    now: Timestamp,
    dice: Dice,
    drawn: u64,
    pub nodes: BTreeMap<String, Node>,
    pub workloads: BTreeMap<WorkloadRef, Workload>,
    /// By uid.
    pub pods: BTreeMap<String, Pod>,
    pub budgets: Vec<Budget>,
    /// Faults that nodes hold, by the name of their order.
    pub injections: BTreeMap<String, Injected>,
    /// A Service's selector, by its name.
    pub services: BTreeMap<String, BTreeMap<String, String>>,
    /// Addresses of dead pods that are still routed to, and until when.
    ghosts: Vec<(BTreeMap<String, String>, Timestamp)>,
    due: BTreeMap<(Timestamp, u64), Happening>,
    /// Counts what a watch would tell.
    pub changes: u64,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub ready: bool,
    pub schedulable: bool,
    /// The uid of the run in its label.
    pub held_by: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Workload {
    pub uid: String,
    pub replicas: i32,
    /// As its controller last counted them.
    pub observed: i32,
    pub labels: BTreeMap<String, String>,
    pub behaviour: Behaviour,
    pub held: Option<Held>,
    /// Uids of lost pods whose replacement has not been created.
    pub awaited: VecDeque<String>,
    lost: Option<Timestamp>,
}

/// The labels of a workload that a run holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub by: String,
    pub back: i32,
    pub set: i32,
}

/// A fault on one pod, held by its node.
#[derive(Clone, Debug)]
pub struct Injected {
    pub uid: String,
    pub ordered: Timestamp,
    pub ends: Timestamp,
    pub revoked: Option<Timestamp>,
    /// What it adds to an answer; a pod that is stopped does not answer.
    pub adds: Duration,
}

/// An agent begins so long after the order, and ends so long after it is told to.
const AGENT: Duration = Duration::from_millis(40);
/// The first second of a fault is measured before it is reported.
const FIRST_BITE: Duration = Duration::from_millis(1_040);

/// How the pods of a workload behave.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// From scheduled to ready.
    pub start: Duration,
    /// From SIGTERM to the end.
    pub shutdown: Duration,
    /// `terminationGracePeriodSeconds`.
    pub grace: Duration,
    pub ignores_sigterm: bool,
    /// Of an answer, when all replicas carry the load.
    pub latency: Duration,
    /// Of an answer, for a while after a pod was lost.
    pub slow_after_loss: Option<(Duration, Duration)>,
    /// Takes no connection, whatever is ready.
    pub down: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            start: Duration::from_secs(3),
            shutdown: Duration::from_millis(500),
            grace: Duration::from_secs(30),
            ignores_sigterm: false,
            latency: Duration::from_millis(12),
            slow_after_loss: None,
            down: false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub owner: WorkloadRef,
    pub node: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub ready: bool,
    /// Whether it ever was ready.
    pub served: bool,
    /// When it will be gone, once it is marked for deletion.
    pub ends: Option<Timestamp>,
    pub created: Timestamp,
    /// The lost pod that this one replaces.
    pub stands_in_for: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Budget {
    pub name: String,
    pub selector: Selector,
    pub limit: BudgetLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetLimit {
    MinAvailable(Amount),
    MaxUnavailable(Amount),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Count(usize),
    /// Kubernetes rounds these up.
    Percent(Percent),
}

impl Amount {
    fn of(self, whole: usize) -> usize {
        match self {
            Amount::Count(count) => count,
            Amount::Percent(percent) => (whole * usize::from(percent.get())).div_ceil(100),
        }
    }
}

#[derive(Debug)]
enum Happening {
    Reconcile(WorkloadRef),
    Ready(String),
    Gone(String),
    /// A node says something new.
    Said,
}

/// What a Service answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// After this many milliseconds.
    Answered(f64),
    Refused,
    NoSuchHost,
}

impl Cluster {
    pub fn new(now: Timestamp, seed: u64) -> Self {
        Cluster {
            now,
            dice: Dice::new(seed),
            drawn: 0,
            nodes: BTreeMap::new(),
            workloads: BTreeMap::new(),
            pods: BTreeMap::new(),
            budgets: Vec::new(),
            injections: BTreeMap::new(),
            services: BTreeMap::new(),
            ghosts: Vec::new(),
            due: BTreeMap::new(),
            changes: 0,
        }
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn inject(&mut self, name: &str, uid: &str, hold: Duration, adds: Duration) -> bool {
        if self.injections.contains_key(name) {
            return false;
        }
        let ends = self.now + hold.as_signed();
        let injected = Injected { uid: uid.to_owned(), ordered: self.now, ends, revoked: None, adds };
        self.injections.insert(name.to_owned(), injected);
        for at in [self.now + AGENT.as_signed(), self.now + FIRST_BITE.as_signed(), ends] {
            self.happen_at(at, Happening::Said);
        }
        self.changes += 1;
        self.pods.contains_key(uid)
    }

    /// Ends it, or keeps it from ever beginning.
    pub fn revoke(&mut self, name: &str, uid: &str) {
        let now = self.now;
        self.inject(name, uid, Duration::ZERO, Duration::ZERO);
        if let Some(injected) = self.injections.get_mut(name) {
            injected.revoked.get_or_insert(now);
        }
        self.happen_at(now + AGENT.as_signed(), Happening::Said);
        self.changes += 1;
    }

    /// When a fault is over.
    fn over(&self, injected: &Injected) -> Timestamp {
        injected.revoked.map_or(injected.ends, |revoked| (revoked + AGENT.as_signed()).min(injected.ends))
    }

    pub fn is_held(&self, name: &str) -> bool {
        let held = |injected: &Injected| self.pods.contains_key(&injected.uid) && self.now < self.over(injected);
        self.injections.get(name).is_some_and(held)
    }

    /// As the node says it.
    pub fn injections_seen(&self) -> BTreeMap<String, InjectionSeen> {
        let seen = |injected: &Injected| {
            let bite = self.now >= injected.ordered + FIRST_BITE.as_signed();
            let over = self.now >= self.over(injected);
            let (phase, why) = match (self.pods.contains_key(&injected.uid), over) {
                (false, _) => (InjectionPhase::Lost, "the target is gone"),
                (true, true) => (InjectionPhase::Cleared, "ended as ordered"),
                (true, false) if self.now < injected.ordered + AGENT.as_signed() => (InjectionPhase::Pending, "ordered"),
                (true, false) => (InjectionPhase::Holding, "in force"),
            };
            InjectionSeen {
                phase,
                bite: (bite && self.over(injected) >= injected.ordered + FIRST_BITE.as_signed()).then(|| "measured".to_owned()),
                clean: phase.is_over().then(|| "read back by the node".to_owned()),
                why: Some(why.to_owned()),
            }
        };
        self.injections.iter().map(|(name, injected)| (name.clone(), seen(injected))).collect()
    }

    /// When something happens next by itself.
    pub fn next(&self) -> Option<Timestamp> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Lets time pass, and what is due happen in order.
    pub fn advance_to(&mut self, until: Timestamp) {
        while let Some(entry) = self.due.first_entry() {
            let at = entry.key().0;
            if at > until {
                break;
            }
            let happening = entry.remove();
            self.now = self.now.max(at);
            match happening {
                Happening::Reconcile(of) => self.reconcile(&of),
                Happening::Ready(uid) => self.become_ready(&uid),
                Happening::Gone(uid) => self.end(&uid),
                Happening::Said => self.changes += 1,
            }
        }
        self.now = self.now.max(until);
        self.ghosts.retain(|(_, gone)| *gone > until);
    }

    pub fn add_node(&mut self, name: &str, labels: BTreeMap<String, String>, schedulable: bool) {
        let uid = self.uid("node");
        self.nodes.insert(name.to_owned(), Node { uid, labels, ready: true, schedulable, held_by: None });
    }

    /// A workload with all its pods ready, as it was left the day before.
    pub fn add_workload(&mut self, of: &WorkloadRef, replicas: i32, labels: BTreeMap<String, String>, behaviour: Behaviour) {
        let uid = self.uid("workload");
        let workload =
            Workload { uid, replicas, observed: replicas, labels, behaviour, held: None, awaited: VecDeque::new(), lost: None };
        self.workloads.insert(of.clone(), workload);
        for ordinal in 0..replicas {
            let uid = self.create_pod(of, ordinal);
            self.become_ready(&uid);
        }
        self.due.retain(|_, happening| !matches!(happening, Happening::Ready(_)));
    }

    /// The pods of a workload that are not on their way out.
    pub fn active<'a>(&'a self, of: &'a WorkloadRef) -> impl Iterator<Item = (&'a String, &'a Pod)> {
        self.pods.iter().filter(move |(_, pod)| pod.owner == *of && pod.ends.is_none())
    }

    pub fn ready_count(&self, of: &WorkloadRef) -> usize {
        self.active(of).filter(|(_, pod)| pod.ready).count()
    }

    /// DELETE of a pod, by uid. `false`: there is none with this uid.
    pub fn delete_pod(&mut self, uid: &str, grace: Option<Duration>) -> bool {
        let Some(pod) = self.pods.get(uid) else { return false };
        let behaviour = &self.workloads[&pod.owner].behaviour;
        let grace = grace.unwrap_or(behaviour.grace);
        let length = if behaviour.ignores_sigterm { grace } else { grace.min(behaviour.shutdown) };
        let ends = self.now + length.as_signed();
        // A second delete shortens the grace period and never lengthens it.
        let ends = pod.ends.map_or(ends, |before| before.min(ends));
        let first = pod.ends.is_none();
        let owner = pod.owner.clone();
        self.pods.get_mut(uid).expect("found above").ends = Some(ends);
        self.changes += 1;
        if first && let Some(workload) = self.workloads.get_mut(&owner) {
            workload.awaited.push_back(uid.to_owned());
            workload.lost = Some(self.now);
        }
        if length == Duration::ZERO {
            self.end(uid);
        } else {
            self.happen_at(ends, Happening::Gone(uid.to_owned()));
            self.reconcile_soon(&owner);
        }
        true
    }

    /// The Eviction API.
    ///
    /// # Errors
    /// Its refusal, in its own words.
    pub fn evict(&mut self, uid: &str) -> Result<bool, String> {
        let Some(pod) = self.pods.get(uid) else { return Ok(false) };
        if pod.ends.is_some() {
            return Ok(true);
        }
        for budget in self.budgets.iter().filter(|budget| budget.selector.matches(&pod.labels)) {
            let expected: i32 = self
                .workloads
                .values()
                .filter(|workload| budget.selector.matches(&workload.labels))
                .map(|workload| workload.replicas)
                .sum();
            let expected = usize::try_from(expected).unwrap_or(0);
            let healthy =
                self.pods.values().filter(|pod| pod.ready && pod.ends.is_none() && budget.selector.matches(&pod.labels)).count();
            let needed = match budget.limit {
                BudgetLimit::MinAvailable(amount) => amount.of(expected),
                BudgetLimit::MaxUnavailable(amount) => expected.saturating_sub(amount.of(expected)),
            };
            if healthy <= needed && pod.ready {
                return Err(format!(
                    "Cannot evict pod as it would violate the pod's disruption budget. The disruption budget {} needs {needed} healthy pods and has {healthy} currently",
                    budget.name
                ));
            }
        }
        Ok(self.delete_pod(uid, None))
    }

    pub fn set_replicas(&mut self, of: &WorkloadRef, replicas: i32) {
        if let Some(workload) = self.workloads.get_mut(of) {
            workload.replicas = replicas;
            self.changes += 1;
            self.reconcile_soon(of);
        }
    }

    pub fn set_schedulable(&mut self, node: &str, schedulable: bool) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.schedulable = schedulable;
            self.changes += 1;
        }
        if schedulable {
            self.reconcile_all();
        }
    }

    /// A node vanishes, and its pods with it.
    pub fn remove_node(&mut self, name: &str) {
        if self.nodes.remove(name).is_none() {
            return;
        }
        self.changes += 1;
        let lost: Vec<String> =
            self.pods.iter().filter(|(_, pod)| pod.node.as_deref() == Some(name)).map(|(uid, _)| uid.clone()).collect();
        for uid in lost {
            self.delete_pod(&uid, Some(Duration::ZERO));
        }
    }

    /// A request to a host: the Service of that name, or the workload of that name, or the pods with that `app`.
    pub fn ask(&mut self, host: &str) -> Reply {
        let name = host.split('.').next().unwrap_or(host).to_owned();
        let Some(selector) = self.selector_of(&name) else { return Reply::NoSuchHost };
        let matches = |labels: &BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let of: Vec<WorkloadRef> =
            self.workloads.iter().filter(|(_, workload)| matches(&workload.labels)).map(|(of, _)| of.clone()).collect();
        let Some(behaviour) = of.first().map(|of| self.workloads[of].behaviour.clone()) else { return Reply::Refused };
        let of_service = |pod: &&Pod| pod.ready && matches(&pod.labels);
        let fresh = self.pods.values().filter(of_service).filter(|pod| pod.ends.is_none()).count();
        // Terminating pods get requests only where no other is left.
        let serving = if fresh > 0 { fresh } else { self.pods.values().filter(of_service).count() };
        let ghosts = self.ghosts.iter().filter(|(labels, _)| matches(labels)).count();
        if behaviour.down || serving == 0 || self.dice.index(serving + ghosts) >= serving {
            return Reply::Refused;
        }
        let slowed: Vec<Duration> = self
            .injections
            .iter()
            .filter(|(name, injected)| {
                self.is_held(name) && self.pods.get(&injected.uid).is_some_and(|pod| pod.ready && matches(&pod.labels))
            })
            .map(|(_, injected)| injected.adds)
            .collect();
        let added = match slowed.len() {
            0 => Duration::ZERO,
            _ => slowed.get(self.dice.index(serving)).copied().unwrap_or(Duration::ZERO),
        };
        let wanted: i32 = of.iter().map(|of| self.workloads[of].replicas).sum();
        let wanted = u64::try_from(wanted).unwrap_or(0).max(1);
        let mut base = behaviour.latency;
        if let Some((slow, length)) = behaviour.slow_after_loss
            && of.iter().any(|of| self.workloads[of].lost.is_some_and(|lost| self.now < lost + length.as_signed()))
        {
            base = slow;
        }
        // Half of an answer's time grows with the load that each pod carries.
        let load = 50 + 50 * wanted.max(serving as u64) / serving as u64;
        let noise = 85 + self.dice.below(45);
        Reply::Answered(base.as_millis() as f64 * load as f64 / 100.0 * noise as f64 / 100.0 + added.as_millis() as f64)
    }

    /// Whether a host of this name would be found.
    pub fn knows(&self, name: &str) -> bool {
        self.selector_of(name).is_some()
    }

    /// One of these numbers by chance, from the cluster's own dice.
    pub fn draw(&mut self, below: usize) -> usize {
        self.dice.index(below)
    }

    fn selector_of(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.services
            .get(name)
            .or_else(|| self.workloads.iter().find(|(of, _)| of.name == name).map(|(_, workload)| &workload.labels))
            .or_else(|| {
                let labelled = |workload: &&Workload| workload.labels.get("app").is_some_and(|app| app == name);
                self.workloads.values().find(labelled).map(|workload| &workload.labels)
            })
            .cloned()
    }

    fn uid(&mut self, of: &str) -> String {
        self.drawn += 1;
        format!("{of}-{:04}", self.drawn)
    }

    fn happen_at(&mut self, at: Timestamp, happening: Happening) {
        self.drawn += 1;
        self.due.insert((at, self.drawn), happening);
    }

    fn reconcile_soon(&mut self, of: &WorkloadRef) {
        let after = self.dice.around(CONTROLLER, 50, 150);
        self.happen_at(self.now + after.as_signed(), Happening::Reconcile(of.clone()));
    }

    fn reconcile_all(&mut self) {
        let all: Vec<WorkloadRef> = self.workloads.keys().cloned().collect();
        for of in all {
            self.reconcile_soon(&of);
        }
    }

    /// What the controller of a workload does when it looks.
    fn reconcile(&mut self, of: &WorkloadRef) {
        let Some(workload) = self.workloads.get(of) else { return };
        let wanted = usize::try_from(workload.replicas).unwrap_or(0);
        self.schedule_pending(of);
        match of.kind {
            WorkloadKind::Deployment => self.reconcile_deployment(of, wanted),
            WorkloadKind::StatefulSet => self.reconcile_stateful_set(of, wanted),
        }
        let observed = match of.kind {
            WorkloadKind::Deployment => self.active(of).count(),
            WorkloadKind::StatefulSet => self.pods.values().filter(|pod| pod.owner == *of).count(),
        };
        let observed = i32::try_from(observed).unwrap_or(i32::MAX);
        let complete = self.active(of).count() >= wanted;
        if let Some(workload) = self.workloads.get_mut(of) {
            if workload.observed != observed {
                workload.observed = observed;
                self.changes += 1;
            }
            // What is not wanted any more is not awaited either.
            if complete {
                workload.awaited.clear();
            }
        }
    }

    /// A ReplicaSet does not count pods on their way out, and replaces them at once.
    fn reconcile_deployment(&mut self, of: &WorkloadRef, wanted: usize) {
        let mut active: Vec<(bool, std::cmp::Reverse<Timestamp>, String)> =
            self.active(of).map(|(uid, pod)| (pod.ready, std::cmp::Reverse(pod.created), uid.clone())).collect();
        for _ in active.len()..wanted {
            self.create_pod(of, 0);
        }
        // The least useful first: not ready, then the youngest.
        active.sort();
        let surplus: Vec<String> =
            active.iter().take(active.len().saturating_sub(wanted)).map(|(_, _, uid)| uid.clone()).collect();
        for uid in surplus {
            self.delete_pod(&uid, None);
            self.forget_awaited(of, &uid);
        }
    }

    /// A StatefulSet goes one by one, up in the order of its names and down again, and a name is used once.
    fn reconcile_stateful_set(&mut self, of: &WorkloadRef, wanted: usize) {
        let named: BTreeMap<String, (String, bool, bool)> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.owner == *of)
            .map(|(uid, pod)| (pod.name.clone(), (uid.clone(), pod.ready, pod.ends.is_some())))
            .collect();
        for ordinal in 0..wanted {
            match named.get(&format!("{}-{ordinal}", of.name)) {
                Some((_, true, false)) => {}
                Some(_) => return,
                None => {
                    self.create_pod(of, i32::try_from(ordinal).unwrap_or(i32::MAX));
                    return;
                }
            }
        }
        let ordinal = |name: &str| name.rsplit('-').next().and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        let mut surplus: Vec<&(String, bool, bool)> = Vec::new();
        let mut by_ordinal: Vec<_> = named.iter().map(|(name, pod)| (ordinal(name), pod)).collect();
        by_ordinal.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        surplus.extend(by_ordinal.iter().filter(|(ordinal, _)| *ordinal >= wanted).map(|(_, pod)| *pod));
        if let Some((uid, _, false)) = surplus.first().map(|pod| (&pod.0, pod.1, pod.2)) {
            let uid = uid.clone();
            self.delete_pod(&uid, None);
            self.forget_awaited(of, &uid);
        }
    }

    /// What its own controller took away is not waited for.
    fn forget_awaited(&mut self, of: &WorkloadRef, uid: &str) {
        if let Some(workload) = self.workloads.get_mut(of) {
            workload.awaited.retain(|awaited| awaited != uid);
        }
    }

    fn create_pod(&mut self, of: &WorkloadRef, ordinal: i32) -> String {
        let uid = self.uid("pod");
        let name = match of.kind {
            WorkloadKind::Deployment => format!("{}-{}", of.name, self.dice.suffix()),
            WorkloadKind::StatefulSet => format!("{}-{ordinal}", of.name),
        };
        let workload = self.workloads.get_mut(of).expect("pods are created for a workload that exists");
        let stands_in_for = workload.awaited.pop_front();
        let labels = workload.labels.clone();
        let pod = Pod {
            name,
            owner: of.clone(),
            node: None,
            labels,
            ready: false,
            served: false,
            ends: None,
            created: self.now,
            stands_in_for,
        };
        self.pods.insert(uid.clone(), pod);
        self.changes += 1;
        self.schedule_pod(&uid);
        uid
    }

    fn schedule_pending(&mut self, of: &WorkloadRef) {
        let pending: Vec<String> = self.active(of).filter(|(_, pod)| pod.node.is_none()).map(|(uid, _)| uid.clone()).collect();
        for uid in pending {
            self.schedule_pod(&uid);
        }
    }

    /// On the node with the fewest pods of the same workload, then the fewest pods.
    fn schedule_pod(&mut self, uid: &str) {
        let owner = self.pods[uid].owner.clone();
        let place = self
            .nodes
            .iter()
            .filter(|(_, node)| node.ready && node.schedulable)
            .min_by_key(|(name, _)| {
                let on = || self.pods.values().filter(|pod| pod.node.as_ref() == Some(*name));
                (on().filter(|pod| pod.owner == owner).count(), on().count(), (*name).clone())
            })
            .map(|(name, _)| name.clone());
        let Some(place) = place else { return };
        let start = self.workloads[&owner].behaviour.start;
        let ready = self.now + self.dice.around(start, 80, 120).as_signed();
        self.pods.get_mut(uid).expect("it was just read").node = Some(place);
        self.changes += 1;
        self.happen_at(ready, Happening::Ready(uid.to_owned()));
    }

    fn become_ready(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if pod.ends.is_some() || pod.ready {
            return;
        }
        pod.ready = true;
        pod.served = true;
        self.changes += 1;
        let owner = pod.owner.clone();
        self.reconcile_soon(&owner);
    }

    fn end(&mut self, uid: &str) {
        let due = self.pods.get(uid).and_then(|pod| pod.ends);
        if due.is_none_or(|ends| ends > self.now) {
            return;
        }
        if let Some(pod) = self.pods.remove(uid) {
            self.changes += 1;
            if pod.ready {
                let until = self.now + self.dice.around(ENDPOINTS, 50, 150).as_signed();
                self.ghosts.push((pod.labels, until));
            }
            self.reconcile_soon(&pod.owner);
        }
    }
}
