//! What all runs have in common: the runs and cords as last seen, and what a run's task needs.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::DeserializeGuard;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::api::{Cord, GameDay, GameDayRun, Guardrail, Injection, InjectionStatus, People, Stop, Verdict};
use crate::cluster::record as recorded;
use crate::cluster::{Change, Clock, Injections, Inventory, Leader};
use crate::engine::{InjectionSeen, Pulled, RunId, record};

use super::agents::Agents;
use super::events::Events;
use super::gameday::Board;
use super::guardrails::Guardrails;
use super::health::Metrics;
use super::runs;

/// Runs under way at once; more wait their turn. Each may watch, probe and write every second or two.
const RUNS_AT_ONCE: usize = 32;

pub struct Desk {
    pub client: Client,
    pub agents: Agents,
    pub leader: Leader,
    /// Of the cluster, for as long as this process leads.
    pub inventory: Arc<Inventory>,
    pub guardrails: Guardrails,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub events: Events,
    /// Places for runs that are about to begin. One that waits, or has faults in force, needs none.
    pub places: Arc<Semaphore>,
    pub stopping: watch::Receiver<bool>,
    /// Held by every run's task; when all are gone, the tasks are.
    pub busy: Mutex<Option<mpsc::Sender<()>>>,
    pub board: Board,
    /// A run is gone: there may be something to sweep.
    pub litter: Notify,
    /// Orders to nodes have changed.
    pub orders_changed: watch::Sender<()>,
    runs: Mutex<HashMap<String, Arc<SeenRun>>>,
    cords: Mutex<HashMap<String, Cord>>,
    /// By uid; absent until they were read once.
    injections: Mutex<(bool, HashMap<String, Injection>)>,
}

/// A run as its watch last showed it.
pub struct SeenRun {
    pub id: RunId,
    pub game_day: String,
    pub created: Timestamp,
    /// The game day it belongs to, for events.
    pub owner: Option<ObjectReference>,
    pub itself: ObjectReference,
    /// Something has changed that the run's task must look at.
    pub changed: Arc<Notify>,
    now: Mutex<Now>,
}

/// The part of a run that changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Now {
    pub deleted: bool,
    pub stop: Option<Stop>,
    pub people: People,
    pub finished: bool,
    pub verdict: Option<Verdict>,
    /// A task is at it.
    pub tended: bool,
}

impl SeenRun {
    pub fn now(&self) -> Now {
        lock(&self.now).clone()
    }

    /// The uid of the game day that owns it.
    pub fn owner_uid(&self) -> Option<&str> {
        self.owner.as_ref()?.uid.as_deref()
    }

    pub fn is_deleted(&self) -> bool {
        lock(&self.now).deleted
    }
}

impl Desk {
    pub fn new(
        client: Client,
        agents: Agents,
        leader: Leader,
        metrics: Arc<Metrics>,
        events: Events,
        stopping: watch::Receiver<bool>,
        busy: mpsc::Sender<()>,
    ) -> Self {
        let inventory = Arc::new(Inventory::start(&client));
        let own = [agents.namespace.clone(), agents.operator_namespace().to_owned()];
        Desk {
            guardrails: Guardrails::new(&inventory, own.into()),
            inventory,
            client,
            agents,
            leader,
            clock: Clock::start(),
            metrics,
            events,
            places: Arc::new(Semaphore::new(RUNS_AT_ONCE)),
            stopping,
            busy: Mutex::new(Some(busy)),
            board: Board::default(),
            litter: Notify::new(),
            orders_changed: watch::Sender::new(()),
            runs: Mutex::default(),
            cords: Mutex::default(),
            injections: Mutex::default(),
        }
    }

    /// The cord over a namespace.
    pub fn cord(&self, namespace: &str) -> Option<Pulled> {
        Pulled::over(lock(&self.cords).values(), namespace)
    }

    /// The runs of a game day, the oldest first: those that it owns, and those of its name that nobody owns.
    pub fn runs_of(&self, namespace: &str, game_day: &str, uid: &str) -> Vec<Arc<SeenRun>> {
        let runs = lock(&self.runs);
        let of = |run: &&Arc<SeenRun>| match run.owner_uid() {
            Some(owner) => owner == uid,
            None => run.id.namespace == namespace && run.game_day == game_day,
        };
        let mut found: Vec<Arc<SeenRun>> = runs.values().filter(of).cloned().collect();
        found.sort_by(|a, b| (a.created, &a.id.name).cmp(&(b.created, &b.id.name)));
        found
    }

    pub fn see_cord(&self, change: Change<DeserializeGuard<Cord>>) {
        let mut cords = lock(&self.cords);
        match change {
            Change::Is(DeserializeGuard(Ok(cord))) => {
                let uid = cord.uid().unwrap_or_default();
                tracing::warn!(cord = cord.name_any(), reason = cord.spec.reason, "a cord is pulled");
                cords.insert(uid, cord);
            }
            Change::Is(DeserializeGuard(Err(invalid))) => {
                // In doubt, revert: a cord that cannot be read covers everything.
                tracing::error!(
                    cord = invalid.metadata.name,
                    error = invalid.error,
                    "a cord cannot be read: it counts as pulled over all namespaces"
                );
                let uid = invalid.metadata.uid.clone().unwrap_or_default();
                let spec = crate::api::CordSpec { reason: "it cannot be read".to_owned(), by: None, namespaces: Vec::new() };
                let mut cord = Cord::new("", spec);
                cord.metadata = invalid.metadata;
                cords.insert(uid, cord);
            }
            Change::Gone(cord) => {
                tracing::info!(cord = cord.name_any(), "a cord is released");
                cords.remove(cord.uid().as_deref().unwrap_or_default());
            }
            Change::Only(uids) => cords.retain(|uid, _| uids.contains(uid)),
        }
        drop(cords);
        for run in lock(&self.runs).values() {
            run.changed.notify_one();
        }
    }

    pub fn see_injection(&self, change: Change<DeserializeGuard<Injection>>) {
        let mut kept = lock(&self.injections);
        let (read, injections) = &mut *kept;
        let mut of = None;
        let mut orphan = false;
        match change {
            Change::Is(DeserializeGuard(Ok(injection))) => {
                of = Some(injection.spec.run.uid.clone());
                orphan = !injection.spec.revert && !injection.is_over();
                injections.insert(injection.uid().unwrap_or_default(), injection);
            }
            Change::Is(DeserializeGuard(Err(invalid))) => {
                tracing::error!(injection = invalid.metadata.name, error = invalid.error, "an injection cannot be read");
            }
            Change::Gone(injection) => {
                of = injections.remove(injection.uid().as_deref().unwrap_or_default()).map(|gone| gone.spec.run.uid);
            }
            Change::Only(uids) => {
                injections.retain(|uid, _| uids.contains(uid));
                *read = true;
            }
        }
        drop(kept);
        self.orders_changed.send_replace(());
        for (uid, run) in lock(&self.runs).iter() {
            if of.as_ref().is_none_or(|of| of == uid) {
                orphan &= run.now().finished;
                run.changed.notify_one();
            }
        }
        // An order of a run that is over or gone came late, from an operator that was stopped. Before the runs are read
        // every order looks so, and one sweep too many does nothing.
        if orphan {
            self.litter.notify_one();
        }
    }

    /// Orders to nodes, as one run sees them; `None` until they were read.
    pub fn injections(&self, run_uid: &str) -> Option<Injections> {
        let kept = lock(&self.injections);
        let (true, injections) = &*kept else { return None };
        let mut seen = Injections::default();
        for injection in injections.values() {
            let status = injection.status.clone().unwrap_or_default();
            if injection.spec.run.uid == run_uid {
                let InjectionStatus { phase, bite, clean, why, began: _, ended: _ } = status;
                let [bite, clean, why] = [bite, clean, why].map(|said| said.map(record::words));
                seen.own.insert(injection.name_any(), InjectionSeen { phase, bite, clean, why });
            } else if injection.spec.fault.network.is_some() && !status.phase.is_over() {
                seen.networks.insert(injection.spec.pod.uid.clone());
            }
        }
        Some(seen)
    }

    /// Orders that have not ended, and are not to.
    pub fn live_orders(&self) -> Vec<Injection> {
        lock(&self.injections).1.values().filter(|order| !order.is_over() && !order.spec.revert).cloned().collect()
    }

    /// Returns when a node has said that this order of a run is over, or `false` where no such order is seen.
    pub async fn until_over(&self, run_uid: &str, name: &str) -> bool {
        let mut changed = self.orders_changed.subscribe();
        loop {
            let is_over = {
                let kept = lock(&self.injections);
                let mut of = kept.1.values().filter(|order| order.spec.run.uid == run_uid && order.name_any() == name);
                of.next().map(Injection::is_over)
            };
            match is_over {
                Some(false) => {}
                Some(true) => return true,
                None => return false,
            }
            if changed.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Nodes with orders that have not ended.
    pub fn busy_nodes(&self) -> BTreeSet<String> {
        let kept = lock(&self.injections);
        kept.1.values().filter(|order| !order.is_over()).map(|injection| injection.spec.node.clone()).collect()
    }

    /// Every run's task looks again.
    pub fn news(&self) {
        for run in lock(&self.runs).values() {
            run.changed.notify_one();
        }
    }

    pub fn has_unfinished(&self) -> bool {
        lock(&self.runs).values().any(|run| !run.now().finished)
    }

    pub fn see_guardrail(&self, change: Change<DeserializeGuard<Guardrail>>) {
        self.guardrails.see(change);
        self.news();
    }

    pub fn see_game_day(&self, change: Change<DeserializeGuard<GameDay>>) {
        match change {
            Change::Is(DeserializeGuard(Ok(game_day))) => self.board.put(game_day),
            Change::Is(DeserializeGuard(Err(invalid))) => {
                tracing::warn!(
                    gameday = invalid.metadata.name,
                    namespace = invalid.metadata.namespace,
                    error = invalid.error,
                    "a game day cannot be read; it is left out"
                );
            }
            Change::Gone(game_day) => self.board.remove(game_day.uid().as_deref().unwrap_or_default()),
            Change::Only(uids) => self.board.keep_only(&uids),
        }
    }

    pub fn see_run(self: &Arc<Self>, change: Change<DeserializeGuard<GameDayRun>>) {
        match change {
            Change::Is(DeserializeGuard(Ok(run))) => self.see_one_run(run),
            Change::Is(DeserializeGuard(Err(invalid))) => {
                tracing::warn!(
                    run = invalid.metadata.name,
                    namespace = invalid.metadata.namespace,
                    error = invalid.error,
                    "a run cannot be read; it is left as it is"
                );
            }
            Change::Gone(run) => self.run_gone(run.uid().as_deref().unwrap_or_default()),
            Change::Only(uids) => {
                let gone: Vec<String> = lock(&self.runs).keys().filter(|uid| !uids.contains(*uid)).cloned().collect();
                for uid in gone {
                    self.run_gone(&uid);
                }
                self.guardrails.runs_are_read();
                self.news();
            }
        }
    }

    fn see_one_run(self: &Arc<Self>, object: GameDayRun) {
        let uid = object.uid().unwrap_or_default();
        let run = Arc::clone(lock(&self.runs).entry(uid).or_insert_with(|| Arc::new(first_seen(&object))));
        let mut now = lock(&run.now);
        let before = now.clone();
        now.deleted = object.metadata.deletion_timestamp.is_some();
        now.stop = object.spec.stop.clone();
        now.people = object.spec.people.clone();
        now.finished = object.is_finished();
        now.verdict = object.status.as_ref().and_then(|status| status.verdict);
        let begins = !now.finished && !now.tended;
        now.tended |= begins;
        let news = now.deleted != before.deleted || now.stop != before.stop || now.people != before.people;
        let passed = now.finished && !before.finished && now.verdict != Some(Verdict::Failed);
        if begins || now.finished != before.finished || news {
            self.board.touch(&run.id.namespace, &run.game_day);
        }
        drop(now);
        if passed {
            self.guardrails.passed(&recorded::loaded(object.clone()).run);
        }
        if begins {
            let loaded = recorded::loaded(object);
            // Before anybody else may ask what is in force.
            self.guardrails.tell(&loaded.run);
            runs::begin(self, &run, loaded);
        } else if news {
            // Not on every change: most are this operator's own.
            run.changed.notify_one();
        }
    }

    fn run_gone(&self, uid: &str) {
        let Some(run) = lock(&self.runs).remove(uid) else { return };
        self.guardrails.gone(uid);
        if !run.now().tended {
            self.guardrails.forget(uid);
        }
        let mut now = lock(&run.now);
        now.deleted = true;
        let Now { finished, tended, .. } = *now;
        drop(now);
        run.changed.notify_one();
        self.board.touch(&run.id.namespace, &run.game_day);
        // A finished run was read back clean, or the sweep has been at it ever since. One that a task is at is
        // reverted by that first.
        if !finished && !tended {
            self.litter.notify_one();
        }
    }

    /// A run's task has ended.
    pub fn left(&self, run: &SeenRun) {
        let mut now = lock(&run.now);
        now.tended = false;
        if now.deleted {
            self.litter.notify_one();
        }
    }
}

fn first_seen(object: &GameDayRun) -> SeenRun {
    let namespace = object.namespace().unwrap_or_default();
    let owner = object.owner_references().iter().find(|owner| owner.kind == GameDay::kind(&())).map(|owner| ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        namespace: Some(namespace.clone()),
        uid: Some(owner.uid.clone()),
        ..ObjectReference::default()
    });
    SeenRun {
        id: RunId { namespace, name: object.name_any(), uid: object.uid().unwrap_or_default() },
        game_day: object.spec.game_day_name.clone(),
        created: object.creation_timestamp().map(|time| time.0).unwrap_or_default(),
        owner,
        itself: object.object_ref(&()),
        changed: Arc::default(),
        now: Mutex::default(),
    }
}

/// What is locked here is whole between two changes, whatever became of the thread that made them.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
