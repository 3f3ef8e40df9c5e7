//! What all pretended operators of a rehearsal share: the cluster, the run as it is stored, the cords, the
//! misfortunes still to come, and the witness who checks every call.

use std::collections::BTreeMap;
use std::task::Waker;

use jiff::Timestamp;

use crate::api::{Duration, Entry, FaultKind, GameDayRunStatus, Stop, TargetKind, WorkloadKind, WorkloadRef};
use crate::engine::admit::Candidates;
use crate::engine::{
    Action, AgentSeen, Answer, InjectionSeen, NodeSeen, Observation, Outcome, Permission, PodSeen, Pulled, Run, SlotSeen, What,
    WorkloadSeen,
};
use crate::turn::{Loaded, RecordError};

use super::check::Witness;
use super::cluster::{Cluster, Held};
use super::dice::Dice;
use super::misfortune::{Misfortune, Planned};
use super::sampler::{Blind, Sampler};

/// A watch tells a change after about this long.
const WATCH: Duration = Duration::from_millis(10);
/// Another operator takes over after up to this long. Shorter than a Lease lasts, so that more of the run is
/// left to go wrong.
const TAKEOVER: Duration = Duration::from_secs(6);

/// Longer than any probe waits.
const NEVER: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub struct Stage {
    pub cluster: Cluster,
    pub witness: Witness,
    /// `None`: deleted.
    stored: Option<Stored>,
    /// The last that was written, also when it is deleted.
    pub last: Run,
    cords: BTreeMap<String, Pulled>,
    planned: Vec<Planned>,
    /// Misfortunes whose time has come, waiting for a call that they can befall.
    armed: Vec<Misfortune>,
    pub denied: Vec<String>,
    pub blind: Vec<Blind>,
    out_until: Option<Timestamp>,
    stations: Vec<Station>,
    /// When operators are to start.
    pub starts: Vec<Timestamp>,
    /// Whether two operators were at work at once.
    rivals: bool,
    pub calls: u64,
    pub turns: u64,
    told: Vec<Told>,
    dice: Dice,
    started: Timestamp,
    changes_told: u64,
}

#[derive(Debug)]
struct Stored {
    run: Run,
    version: u64,
}

/// One operator's process, as far as the stage knows it.
#[derive(Debug, Default)]
struct Station {
    /// Calls on their way.
    timers: Vec<(Timestamp, Waker)>,
    /// Between turns: the next is taken at this time, or at news.
    idle: Option<Timestamp>,
    news: Option<Timestamp>,
    lost: bool,
    over: bool,
    sampler: Option<Sampler>,
    frozen: Option<(View, Timestamp)>,
}

/// What watches show.
#[derive(Clone, Debug)]
struct View {
    deleted: bool,
    stop: Option<Stop>,
    cord: Option<Pulled>,
    pods: Vec<PodSeen>,
    nodes: Vec<NodeSeen>,
    workloads: BTreeMap<WorkloadRef, Option<WorkloadSeen>>,
    injections: BTreeMap<String, InjectionSeen>,
}

/// Something that was told, with the run as recorded then.
#[derive(Debug)]
pub struct Told {
    pub at: Timestamp,
    pub what: Tale,
    pub status: GameDayRunStatus,
}

#[derive(Debug)]
pub enum Tale {
    Entry(Entry),
    Misfortune(String),
}

impl Stage {
    pub fn new(cluster: Cluster, run: Run, planned: Vec<Planned>, seed: u64) -> Self {
        let started = cluster.now();
        let witness = Witness::new(&cluster, &run);
        Stage {
            cluster,
            witness,
            last: run.clone(),
            stored: Some(Stored { run, version: 1 }),
            cords: BTreeMap::new(),
            planned,
            armed: Vec::new(),
            denied: Vec::new(),
            blind: Vec::new(),
            out_until: None,
            stations: Vec::new(),
            starts: vec![started],
            rivals: false,
            calls: 0,
            turns: 0,
            told: Vec::new(),
            dice: Dice::new(seed ^ 0x5eed),
            started,
            changes_told: 0,
        }
    }

    pub fn now(&self) -> Timestamp {
        self.cluster.now()
    }

    pub fn add_operator(&mut self) -> usize {
        let now = self.now();
        self.rivals |= self.stations.iter().any(|station| !station.lost && !station.over);
        self.stations.push(Station { idle: Some(now), ..Station::default() });
        self.stations.len() - 1
    }

    /// Whether any operator is at work, or will be.
    pub fn is_manned(&self) -> bool {
        !self.starts.is_empty() || self.stations.iter().any(|station| !station.lost && !station.over)
    }

    /// The run waits for somebody outside: it may do so for ever.
    pub fn waits_for_cord(&self) -> bool {
        let releases = self.planned.iter().any(|planned| planned.what == Misfortune::ReleaseCord);
        !self.cords.is_empty() && !releases && self.last.status.started.is_none()
    }

    /// The operator to poll next, and when. Among several, by chance.
    pub fn next_poll(&mut self) -> Option<(usize, Timestamp)> {
        let at_work = |station: &Station| !station.lost && !station.over;
        let due = |station: &Station| {
            let idle = station.idle.map(|at| station.news.map_or(at, |news| news.min(at)));
            station.timers.iter().map(|(at, _)| *at).chain(idle).min()
        };
        let at = self.stations.iter().filter(|station| at_work(station)).filter_map(due).min()?;
        let ready: Vec<usize> = (0..self.stations.len())
            .filter(|index| at_work(&self.stations[*index]) && due(&self.stations[*index]) == Some(at))
            .collect();
        Some((ready[self.dice.index(ready.len())], at))
    }

    /// Wakes what is due.
    pub fn begin_poll(&mut self, me: usize) {
        let now = self.now();
        let station = &mut self.stations[me];
        station.idle = None;
        let (due, later) = std::mem::take(&mut station.timers).into_iter().partition(|(at, _)| *at <= now);
        station.timers = later;
        let due: Vec<(Timestamp, Waker)> = due;
        for (_, waker) in due {
            waker.wake();
        }
    }

    pub fn wake_at(&mut self, me: usize, at: Timestamp, waker: Waker) {
        self.stations[me].timers.push((at, waker));
    }

    pub fn idle_until(&mut self, me: usize, at: Timestamp) {
        self.stations[me].idle = Some(at);
    }

    pub fn news_at(&self, me: usize) -> Option<Timestamp> {
        self.stations[me].news
    }

    pub fn is_lost(&self, me: usize) -> bool {
        self.stations[me].lost
    }

    pub fn retire(&mut self, me: usize) {
        self.stations[me].over = true;
        self.stations[me].sampler = None;
    }

    pub fn is_out(&self) -> bool {
        self.out_until.is_some_and(|until| self.now() < until)
    }

    /// An operator's process ends here. Where it was the last, another takes over in a while.
    pub fn lose(&mut self, me: usize) {
        if std::mem::replace(&mut self.stations[me].lost, true) {
            return;
        }
        self.stations[me].sampler = None;
        if !self.is_manned() {
            let after = self.dice.around(TAKEOVER, 5, 100);
            self.starts.push(self.now() + after.as_signed());
        }
    }

    pub fn watch(&mut self, me: usize, sampler: Sampler) {
        self.stations[me].sampler = Some(sampler);
    }

    /// When something happens next by itself.
    pub fn next_event(&self) -> Option<Timestamp> {
        let samples = self.stations.iter().filter_map(|station| station.sampler.as_ref()?.next()).min();
        let planned = self.planned.iter().filter_map(|planned| planned.at).min().map(|at| self.started + at.as_signed());
        [self.cluster.next(), samples, planned].into_iter().flatten().min()
    }

    /// Lets time pass up to here, and everything on the way happen in order.
    pub fn advance_to(&mut self, until: Timestamp) {
        while let Some(at) = self.next_event().filter(|at| *at <= until) {
            self.happen_at(at.max(self.now()));
        }
        self.cluster.advance_to(until);
    }

    fn happen_at(&mut self, at: Timestamp) {
        self.cluster.advance_to(at);
        let since = Duration::between(self.started, at);
        let (due, later) =
            std::mem::take(&mut self.planned).into_iter().partition(|planned| planned.at.is_some_and(|at| at <= since));
        self.planned = later;
        let due: Vec<Planned> = due;
        for planned in due {
            if planned.what.befalls_calls() { self.armed.push(planned.what) } else { self.strike(planned.what) }
        }
        for me in 0..self.stations.len() {
            let Some(sampler) = &mut self.stations[me].sampler else { continue };
            let answered = sampler.advance(&mut self.cluster, &self.blind, at);
            if !answered.is_empty() {
                self.stations[me].news = Some(at);
                self.witness.sampled(me, at, answered);
            }
        }
        self.spread_news();
    }

    /// Everyone who watches hears of changes a moment later.
    fn spread_news(&mut self) {
        let changes = self.cluster.changes;
        if std::mem::replace(&mut self.changes_told, changes) != changes {
            let at = self.now() + WATCH.as_signed();
            for station in &mut self.stations {
                station.news = Some(station.news.map_or(at, |news| news.min(at)));
            }
        }
    }

    /// Counts a call, and says what befalls it.
    pub fn befall(&mut self, may_conflict: bool) -> Option<Misfortune> {
        self.calls += 1;
        let call = self.calls;
        let fits = |what: &Misfortune| *what != Misfortune::Conflict || may_conflict;
        let mut befalls = None;
        let planned = std::mem::take(&mut self.planned);
        for planned in planned {
            match planned.call {
                Some(at) if at == call && planned.what.befalls_calls() => {
                    if fits(&planned.what) {
                        befalls = Some(planned.what);
                    }
                }
                Some(at) if at == call => self.strike(planned.what),
                Some(_) | None => self.planned.push(planned),
            }
        }
        if befalls.is_none()
            && let Some(place) = self.armed.iter().position(fits)
        {
            befalls = Some(self.armed.remove(place));
        }
        if let Some(what) = &befalls {
            self.tell_misfortune(what.words());
        }
        befalls
    }

    /// A misfortune of the world, not of a call.
    fn strike(&mut self, what: Misfortune) {
        self.tell_misfortune(what.words());
        match what {
            Misfortune::CrashBefore
            | Misfortune::CrashAfter
            | Misfortune::Conflict
            | Misfortune::ReplyLost
            | Misfortune::NoAnswer => self.armed.push(what),
            Misfortune::Outage(length) => {
                self.out_until = Some(self.now() + length.as_signed());
                self.freeze(length);
            }
            Misfortune::Stale(length) => self.freeze(length),
            Misfortune::SecondOperator => self.starts.push(self.now()),
            Misfortune::DeleteRun => {
                self.stored = None;
                self.witness.told_to_end(self.cluster.now());
            }
            Misfortune::Stop(reason) => {
                if let Some(stored) = &mut self.stored {
                    stored.run.spec.stop.get_or_insert(Stop { reason, by: None });
                    stored.run.generation += 1;
                    stored.version += 1;
                    self.witness.told_to_end(self.cluster.now());
                }
            }
            Misfortune::PullCord(reason) => {
                self.cords.insert("andon".to_owned(), Pulled { name: "andon".to_owned(), reason, by: None });
                self.witness.cord(Some(self.cluster.now()));
            }
            Misfortune::ReleaseCord => {
                self.cords.clear();
                self.witness.cord(None);
            }
            Misfortune::ScaledByHand { name, replicas } => {
                let of = self.cluster.workloads.keys().find(|of| of.name == name).cloned();
                if let Some(of) = of {
                    self.cluster.set_replicas(&of, replicas);
                    self.witness.scaled_by_hand(&of, replicas);
                }
            }
            Misfortune::PodVanishes => {
                let recorded = self.last.status.experiments.iter().flat_map(|experiment| &experiment.targets);
                let chosen = recorded.map(|target| target.uid.clone()).find(|uid| self.cluster.pods.contains_key(uid));
                let index = self.cluster.draw(self.cluster.pods.len());
                if let Some(uid) = chosen.or_else(|| self.cluster.pods.keys().nth(index).cloned()) {
                    self.cluster.delete_pod(&uid, Some(Duration::ZERO));
                }
            }
            Misfortune::NodeVanishes(name) => {
                self.cluster.remove_node(&name);
                self.witness.node_vanished(&name);
            }
        }
        self.cluster.changes += 1;
        self.spread_news();
    }

    fn freeze(&mut self, length: Duration) {
        let view = self.view();
        let until = self.now() + length.as_signed();
        self.witness.stale_until(until);
        for station in &mut self.stations {
            station.frozen = Some((view.clone(), until));
        }
    }

    fn view(&self) -> View {
        let targets = self.last.plan.iter().flat_map(|plan| &plan.experiments).map(|planned| &planned.candidates);
        let mut selectors = Vec::new();
        let mut workloads = BTreeMap::new();
        let mut touches_nodes = false;
        for candidates in targets {
            match candidates {
                Candidates::Pods(selector) => selectors.push(selector),
                Candidates::Nodes(_) => touches_nodes = true,
                Candidates::Workload(of) => {
                    workloads.insert(of.clone(), self.see_workload(of));
                }
            }
        }
        let pods = self.cluster.pods.iter().filter(|(_, pod)| selectors.iter().any(|selector| selector.matches(&pod.labels)));
        let nodes = self.cluster.nodes.iter().filter(|_| touches_nodes);
        View {
            deleted: self.stored.is_none(),
            stop: self.stored.as_ref().and_then(|stored| stored.run.spec.stop.clone()),
            cord: self.cords.values().next().cloned(),
            pods: pods
                .map(|(uid, pod)| PodSeen {
                    owner: None,
                    images: Default::default(),
                    ended: false,
                    name: pod.name.clone(),
                    uid: uid.clone(),
                    node: pod.node.clone(),
                    labels: pod.labels.clone(),
                    ready: pod.ready,
                    terminating: pod.ends.is_some(),
                    containers: vec![("app".to_owned(), uid.clone())],
                    liveness: BTreeMap::new(),
                    host_network: false,
                })
                .collect(),
            nodes: nodes
                .map(|(name, node)| NodeSeen {
                    name: name.clone(),
                    uid: node.uid.clone(),
                    labels: node.labels.clone(),
                    ready: node.ready,
                    schedulable: node.schedulable,
                    held_by: node.held_by.clone(),
                })
                .collect(),
            workloads,
            injections: self.cluster.injections_seen(),
        }
    }

    fn see_workload(&self, of: &WorkloadRef) -> Option<WorkloadSeen> {
        let workload = self.cluster.workloads.get(of)?;
        Some(WorkloadSeen {
            rolling: None,
            uid: workload.uid.clone(),
            replicas: workload.replicas,
            observed: workload.observed,
            ready: i32::try_from(self.cluster.ready_count(of)).unwrap_or(i32::MAX),
            pod_labels: workload.labels.clone(),
            held_by: workload.held.as_ref().map(|held| held.by.clone()),
        })
    }

    pub fn load(&self) -> Option<Loaded> {
        let stored = self.stored.as_ref()?;
        Some(Loaded { run: stored.run.clone(), version: stored.version.to_string() })
    }

    pub fn observe(&mut self, me: usize, run: &Run) -> Observation {
        let now = self.now();
        self.witness.look_around(&self.cluster);
        let current = self.view();
        let station = &mut self.stations[me];
        station.news = None;
        let view = match &station.frozen {
            Some((view, until)) if now < *until => view.clone(),
            Some(_) | None => current,
        };
        if let Some((_, until)) = station.frozen {
            if now < until {
                // What was missed is told when it ends.
                station.news = Some(until);
            } else {
                station.frozen = None;
            }
        }
        let View { deleted, stop, cord, pods, nodes, workloads, injections } = view;
        let faults = FaultKind::held().collect();
        let ready = AgentSeen::Ready { faults, cannot: BTreeMap::new() };
        let agents = self.cluster.nodes.keys().map(|name| (name.clone(), ready.clone())).collect();
        let recorded = run.status.experiments.iter().flat_map(|experiment| &experiment.targets);
        let gone = recorded
            .filter(|target| target.kind == TargetKind::Pod && !self.cluster.pods.contains_key(&target.uid))
            .map(|target| target.uid.clone())
            .collect();
        let needed = run.plan.iter().flat_map(|plan| plan.permissions());
        let answers = needed.map(|permission| (permission.clone(), self.answer(&permission))).collect();
        Observation {
            deleted,
            stop,
            cord,
            pods,
            gone,
            nodes,
            workloads,
            synced: true,
            permissions: answers,
            probes: self.stations[me].sampler.as_ref().map(Sampler::tracks).unwrap_or_default(),
            outcomes: BTreeMap::new(),
            injections,
            networks: Default::default(),
            agents,
            guarded: None,
            people: run.spec.people.clone(),
            slot: SlotSeen::Unasked,
        }
    }

    fn answer(&self, permission: &Permission) -> Answer {
        if self.denied.contains(&permission.to_string()) {
            Answer::Denied("denied by the scenario".to_owned())
        } else {
            Answer::Allowed
        }
    }

    /// Somebody else writes the run, and changes nothing that matters.
    pub fn touch(&mut self) {
        if let Some(stored) = &mut self.stored {
            stored.version += 1;
        }
    }

    pub fn record(&mut self, me: usize, run: &Run, version: &str, status: &GameDayRunStatus) -> Result<String, RecordError> {
        let Some(stored) = &mut self.stored else { return Err(RecordError::Gone) };
        if stored.run.id.uid != run.id.uid {
            return Err(RecordError::Gone);
        }
        if stored.version.to_string() != version {
            return Err(RecordError::Conflict);
        }
        let before = std::mem::replace(&mut stored.run.status, status.clone());
        stored.version += 1;
        let version = stored.version.to_string();
        self.last = stored.run.clone();
        self.witness.wrote(me, &self.cluster, &before, status);
        Ok(version)
    }

    /// Does what an action says, as the API server and the operator's hands do it together.
    pub fn perform(&mut self, run: &Run, action: &Action) -> Outcome {
        let holder = run.id.uid.clone();
        let of = |kind| WorkloadRef { kind, name: action.target.name.clone() };
        let workload = match action.target.kind {
            TargetKind::Deployment => Some(of(WorkloadKind::Deployment)),
            TargetKind::StatefulSet => Some(of(WorkloadKind::StatefulSet)),
            TargetKind::Pod | TargetKind::Node => None,
        };
        let (effect, outcome) = match &action.what {
            What::Kill { grace_period } => {
                let up = self.cluster.pods.get(&action.target.uid).is_some_and(|pod| pod.ends.is_none());
                self.cluster.delete_pod(&action.target.uid, *grace_period);
                (up, Outcome::Done)
            }
            What::Evict => {
                let up = self.cluster.pods.get(&action.target.uid).is_some_and(|pod| pod.ends.is_none());
                match self.cluster.evict(&action.target.uid) {
                    Ok(_) => (up, Outcome::Done),
                    Err(why) => (false, Outcome::Refused(why)),
                }
            }
            What::Scale { from, to } => self.scale(workload.as_ref(), action, &holder, *from, *to),
            What::Unscale { set, back } => {
                self.unscale(workload.as_ref(), Some(&action.target.uid), &holder, *set, *back);
                (false, Outcome::Done)
            }
            What::Order(order) => {
                let adds = match (&order.fault.network, &order.fault.pause) {
                    // Who asks is not among those whom it names.
                    (Some(network), None) if network.to.is_some() => Duration::ZERO,
                    (Some(network), None) if network.partition == Some(true) => NEVER,
                    (Some(network), None) => network.delay.unwrap_or_default(),
                    (None, Some(_)) => NEVER,
                    (None, None) | (Some(_), Some(_)) => Duration::ZERO,
                };
                (self.cluster.inject(&order.name, &action.target.uid, order.hold, adds), Outcome::Done)
            }
            What::Revoke(order) => {
                self.cluster.revoke(&order.name, &action.target.uid);
                (false, Outcome::Done)
            }
            What::Cordon => self.cordon(action, &holder),
            What::Uncordon => {
                self.uncordon(&action.target.name, &holder);
                (false, Outcome::Done)
            }
        };
        if effect {
            self.witness.injected(&self.cluster, action, self.stored.as_ref().map(|stored| &stored.run.status));
        }
        self.spread_news();
        outcome
    }

    fn scale(&mut self, of: Option<&WorkloadRef>, action: &Action, holder: &str, from: i32, to: i32) -> (bool, Outcome) {
        let refused = |why: String| (false, Outcome::Refused(why));
        let Some((of, workload)) = of.and_then(|of| Some((of, self.cluster.workloads.get_mut(of)?))) else {
            return refused("it is gone".to_owned());
        };
        if workload.uid != action.target.uid {
            return refused("it is another of the same name".to_owned());
        }
        match &workload.held {
            Some(held) if held.by != holder => return refused(format!("it is held by another run (uid {})", held.by)),
            Some(_) if workload.replicas == to => return (false, Outcome::Done),
            Some(_) | None if workload.replicas != from => {
                return refused(format!("it has {} replicas now, not {from}", workload.replicas));
            }
            Some(_) | None => {}
        }
        workload.held = Some(Held { by: holder.to_owned(), back: from, set: to });
        let of = of.clone();
        self.cluster.set_replicas(&of, to);
        (true, Outcome::Done)
    }

    fn unscale(&mut self, of: Option<&WorkloadRef>, uid: Option<&str>, holder: &str, set: i32, back: i32) {
        let Some((of, workload)) = of.and_then(|of| Some((of, self.cluster.workloads.get_mut(of)?))) else { return };
        let ours = workload.held.as_ref().is_some_and(|held| held.by == holder);
        if !ours || uid.is_some_and(|uid| uid != workload.uid) {
            return;
        }
        workload.held = None;
        let unchanged = workload.replicas == set;
        let of = of.clone();
        self.cluster.changes += 1;
        if unchanged {
            self.cluster.set_replicas(&of, back);
        }
    }

    fn cordon(&mut self, action: &Action, holder: &str) -> (bool, Outcome) {
        let refused = |why: String| (false, Outcome::Refused(why));
        let Some(node) = self.cluster.nodes.get_mut(&action.target.name) else { return refused("it is gone".to_owned()) };
        if node.uid != action.target.uid {
            return refused("it is another of the same name".to_owned());
        }
        match &node.held_by {
            Some(by) if by != holder => return refused(format!("it is held by another run (uid {by})")),
            Some(_) => return (false, Outcome::Done),
            None if !node.schedulable => return refused("somebody else made it unschedulable".to_owned()),
            None => {}
        }
        node.held_by = Some(holder.to_owned());
        self.cluster.set_schedulable(&action.target.name, false);
        (true, Outcome::Done)
    }

    fn uncordon(&mut self, name: &str, holder: &str) {
        let Some(node) = self.cluster.nodes.get_mut(name) else { return };
        if node.held_by.as_deref() == Some(holder) {
            node.held_by = None;
            self.cluster.set_schedulable(name, true);
        }
    }

    /// What the operator's sweep does in production: undoes what carries the label of a run that is over or
    /// gone. Says what it found.
    pub fn sweep(&mut self) -> Vec<String> {
        let holder = self.last.id.uid.clone();
        let mut found = Vec::new();
        let held: Vec<(WorkloadRef, Held)> =
            self.cluster.workloads.iter().filter_map(|(of, workload)| Some((of.clone(), workload.held.clone()?))).collect();
        for (of, held) in held.into_iter().filter(|(_, held)| held.by == holder) {
            self.unscale(Some(&of), None, &holder, held.set, held.back);
            found.push(of.to_string());
        }
        let nodes: Vec<String> = self.cluster.nodes.keys().cloned().collect();
        for name in nodes {
            if self.cluster.nodes[&name].held_by.as_deref() == Some(&holder) {
                self.uncordon(&name, &holder);
                found.push(format!("Node/{name}"));
            }
        }
        let held: Vec<(String, String)> = self
            .cluster
            .injections
            .iter()
            .filter(|(name, _)| self.cluster.is_held(name))
            .map(|(name, injected)| (name.clone(), injected.uid.clone()))
            .collect();
        let must_wait = !held.is_empty();
        for (name, uid) in held {
            self.cluster.revoke(&name, &uid);
            found.push(name);
        }
        // The nodes need a moment for what they are told.
        let moment = self.now() + jiff::SignedDuration::from_millis(100);
        if must_wait {
            self.cluster.advance_to(moment);
        }
        self.spread_news();
        found
    }

    /// The last check, after everything.
    pub fn conclude(&mut self, swept: &[String]) {
        let deleted = self.is_deleted();
        self.witness.at_the_end(&self.cluster, &self.last.status, deleted, swept, self.rivals);
    }

    pub fn is_deleted(&self) -> bool {
        self.stored.is_none()
    }

    pub fn tell(&mut self, run: &Run, entries: &[Entry]) {
        for entry in entries {
            self.told.push(Told { at: entry.at, what: Tale::Entry(entry.clone()), status: run.status.clone() });
        }
    }

    pub fn tell_misfortune(&mut self, words: String) {
        let status = self.last.status.clone();
        self.told.push(Told { at: self.cluster.now(), what: Tale::Misfortune(words), status });
    }

    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }
}
