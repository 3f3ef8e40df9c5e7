//! The World on Kubernetes, for one run: what it sees, its record, and the hands that do what it decides.
//!
//! Decides nothing about a run. Every call to the API server has a limit in time, none is repeated in secret,
//! and before each write and each act this process must lead.

pub mod aim;
pub mod client;
mod follow;
pub mod hands;
pub mod injections;
mod inventory;
pub mod leader;
pub mod objects;
pub mod permission;
pub mod record;
pub mod slots;
pub mod sweep;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::sync::Notify;

use crate::api::{
    Entry, ExperimentPhase, FaultKind, GameDayRunStatus, Guardrail, InjectionSpec, People, Stop, TargetKind, WorkloadRef,
};
use crate::engine::{
    Action, AgentSeen, Guarded, InjectionSeen, Observation, Outcome, Pulled, Run, RunId, SlotSeen, Track, What, broken,
};
use crate::turn::{Loaded, RecordError, Trouble, World};

pub use follow::{Change, follow};
pub use inventory::{Inventory, View};
pub use leader::Leader;

use hands::Hands;
use permission::Permissions;

/// Up to so many pods are confirmed gone by a read each; more by one list of the namespace's pods, without their
/// contents. A read takes a millisecond of the API server, a list of a thousand pods twenty.
const FEW: usize = 16;
/// A confirmation without an answer is asked for again after this long.
const CONFIRM_AGAIN: Duration = Duration::from_millis(250);
/// An order that has not ended by then, after all nodes were told at once, is revoked by a write of its own.
const LET_GO: Duration = Duration::from_millis(300);

/// Time that never goes backwards, and starts with the wall clock: a clock that is set does not change how long
/// a fault is held. In whole milliseconds: a record is read by people.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    start: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Clock { wall: Timestamp::now(), start: Instant::now() }
    }

    /// The same clock, or one that starts now at this time if it is behind: a run that is taken over from another
    /// machine must not be held longer because this one's clock is slow.
    pub fn not_before(self, newest: Timestamp) -> Self {
        if self.now() >= newest { self } else { Clock { wall: newest, start: Instant::now() } }
    }

    pub fn now(&self) -> Timestamp {
        let since = SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::MAX);
        let now = self.wall.checked_add(since).unwrap_or(Timestamp::MAX);
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

/// What the operator knows of a run by its own watches and probes. Answers at once.
pub trait Surroundings: Send + Sync {
    /// The run is being deleted, or gone, or another has its name.
    fn is_deleted(&self) -> bool;
    fn stop(&self) -> Option<Stop>;
    fn cord(&self) -> Option<Pulled>;
    /// Why nothing more may be injected, as of now: a cord, a stop, a deletion.
    fn halt(&self) -> Option<String> {
        if self.is_deleted() {
            return Some("the run was deleted".to_owned());
        }
        self.cord().map(|cord| cord.to_string()).or_else(|| self.stop().map(|stop| format!("stopped: {}", stop.reason)))
    }
    /// In the order of the spec.
    fn probes(&self) -> Vec<Track>;
    /// Orders to nodes, by name; `None`: not read yet.
    fn injections(&self) -> Option<Injections>;
    /// Where agents and their orders are.
    fn agents_namespace(&self) -> &str;
    fn agents(&self) -> BTreeMap<String, AgentSeen>;
    fn need(&self, nodes: &BTreeMap<String, BTreeSet<FaultKind>>);
    /// What guardrails are asked with.
    fn guarded(&self) -> Guarded;
    fn people(&self) -> People;
    /// Guardrails with their boards, as last seen.
    fn boards(&self) -> Vec<Guardrail>;
    /// A place among the runs that this process tends at once, kept from now on; `false`: there is none.
    fn place(&self) -> bool;
    /// Whether the run waits for others: then nothing need be watched for it, and it needs no place.
    fn waits(&self, waits: bool);
    /// When the run was created.
    fn created(&self) -> Timestamp;
    /// See [`World::claim`]; `run` has the new status.
    fn claim(&self, run: &Run, before: &GameDayRunStatus, now: Timestamp) -> bool;
    /// Returns when a node has said that this order is over, or `false` where no such order is seen.
    fn until_over(&self, order: &str) -> impl Future<Output = bool> + Send;
    /// Told of entries once they are recorded.
    fn tell(&self, run: &Run, entries: &[Entry]);
}

/// What is known of orders to nodes.
#[derive(Clone, Debug, Default)]
pub struct Injections {
    /// This run's.
    pub own: BTreeMap<String, InjectionSeen>,
    /// Uids of pods with a network fault of another run.
    pub networks: BTreeSet<String>,
}

/// The World of one run.
pub struct ClusterWorld<S> {
    id: RunId,
    client: Client,
    leader: Leader,
    clock: Clock,
    /// Absent for a run that cannot be run: there is nothing to see for it.
    sight: Option<Sight>,
    surroundings: S,
}

struct Sight {
    view: View,
    permissions: Permissions,
    gone: Gone,
}

impl<S: Surroundings> ClusterWorld<S> {
    /// Starts to look at what the run needs. `changed` is notified when something has changed.
    pub fn start(
        client: &Client,
        leader: &Leader,
        clock: Clock,
        run: &Run,
        inventory: &Arc<Inventory>,
        surroundings: S,
        changed: &Arc<Notify>,
    ) -> Self {
        let sight = run.plan.as_ref().ok().map(|plan| {
            let permissions = Permissions::new(client, &run.id.namespace, &plan.service_account, changed);
            permissions.ask(plan.permissions());
            let gone = Gone::new(client, &run.id, changed);
            let view = inventory.view(&run.id.namespace, plan, changed);
            Sight { view, permissions, gone }
        });
        ClusterWorld { id: run.id.clone(), client: client.clone(), leader: leader.clone(), clock, sight, surroundings }
    }

    /// Whether everything that a first decision needs has been seen.
    pub fn is_ready(&self, run: &Run) -> bool {
        let Some(sight) = &self.sight else { return true };
        let wanted = run.plan.as_ref().map(|plan| plan.permissions().len()).unwrap_or_default();
        sight.view.is_synced() && sight.permissions.answers().len() >= wanted
    }

    pub fn surroundings(&self) -> &S {
        &self.surroundings
    }

    /// Asks for permissions that the next turn may need. Also between turns: a turn that has just come to need
    /// them would otherwise wait until its next.
    pub fn ask_ahead(&self, run: &Run) {
        if let (Some(sight), Ok(plan)) = (&self.sight, &run.plan)
            && needs_permission(run)
        {
            sight.permissions.ask(plan.permissions());
        }
    }

    /// Lets go all that an experiment holds by one write, and waits a moment for this order to end by it.
    async fn let_go(&self, experiment: &str, order: &str) -> bool {
        let Some(first) = self.leader.let_go(InjectionSpec::held_for(&self.id.uid, experiment)) else { return false };
        // Of many orders all wait together, and of one that is asked for again and again only the first time.
        tokio::time::timeout_at((first + LET_GO).into(), self.surroundings.until_over(order)).await.unwrap_or(false)
    }

    fn lead(&self) -> Result<(), Trouble> {
        if self.leader.is_valid() { Ok(()) } else { Err(Trouble::NotLeading) }
    }
}

impl<S: Surroundings> World for ClusterWorld<S> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn load(&self) -> Result<Option<Loaded>, Trouble> {
        record::load(&self.client, &self.id).await
    }

    async fn observe(&self, run: &Run) -> Result<Observation, Trouble> {
        self.lead()?;
        let mut seen = Observation {
            deleted: self.surroundings.is_deleted(),
            stop: self.surroundings.stop(),
            cord: self.surroundings.cord(),
            probes: self.surroundings.probes(),
            people: self.surroundings.people(),
            guarded: Some(self.surroundings.guarded()),
            ..Observation::default()
        };
        let Some(sight) = &self.sight else {
            seen.synced = true;
            return Ok(seen);
        };
        let stock = sight.view.stock();
        if stock.synced {
            let there: BTreeSet<&str> = stock.pods.iter().map(|pod| pod.uid.as_str()).collect();
            seen.gone = sight.gone.of(&run.status, &there, stock.gone);
        }
        let injections = self.surroundings.injections();
        let orders_read = injections.is_some();
        let Injections { own, networks } = injections.unwrap_or_default();
        seen.injections = own;
        seen.networks = networks;
        seen.agents = self.surroundings.agents();
        self.ask_ahead(run);
        seen.permissions = sight.permissions.answers();
        seen.deleted |= stock.namespace_ends;
        seen.synced = stock.synced && orders_read;
        seen.pods = stock.pods;
        seen.nodes = stock.nodes;
        seen.workloads = stock.workloads;
        Ok(seen)
    }

    async fn record(&self, run: &Run, version: &str, status: &GameDayRunStatus) -> Result<String, RecordError> {
        self.lead()?;
        record::record(&self.client, &run.id, version, status).await
    }

    fn claim(&self, run: &Run, status: &GameDayRunStatus) -> bool {
        let with = Run { status: status.clone(), ..run.clone() };
        self.surroundings.claim(&with, &run.status, self.clock.now())
    }

    async fn slot(&self, run: &Run, version: &str) -> Result<(SlotSeen, Option<String>), RecordError> {
        self.lead()?;
        if !self.surroundings.place() {
            self.surroundings.waits(true);
            return Ok((SlotSeen::Waiting("for others to end: this operator tends no more runs at once".to_owned()), None));
        }
        let wanted = self.surroundings.guarded().slots(run);
        let boards = self.surroundings.boards();
        let applicant = slots::Applicant { id: &run.id, created: self.surroundings.created(), version, status: &run.status };
        let taken = slots::take(&self.client, &applicant, &wanted, &boards, self.clock.now()).await;
        self.surroundings.waits(!matches!(taken, Ok((SlotSeen::Taken, _))));
        taken
    }

    async fn perform(&self, run: &Run, action: &Action) -> Outcome {
        if self.lead().is_err() {
            return Outcome::Failed(Trouble::NotLeading.to_string());
        }
        // A record takes its time, and so do the targets before this one: what has been said meanwhile counts.
        if !action.reverts()
            && let Some(why) = self.surroundings.halt().or_else(|| broken(run, &action.experiment, &self.surroundings.probes()))
        {
            return Outcome::Refused(why);
        }
        if let What::Revoke(order) = &action.what
            && self.let_go(&action.experiment, &order.name).await
        {
            return Outcome::Done;
        }
        let may_act = || self.leader.is_valid();
        let agents = self.surroundings.agents_namespace();
        hands::perform(Hands { client: &self.client, agents, may_act: &may_act }, &run.id, action).await
    }

    fn need(&self, _run: &Run, nodes: &BTreeMap<String, BTreeSet<FaultKind>>) {
        self.surroundings.need(nodes);
    }

    fn tell(&self, run: &Run, entries: &[Entry]) {
        self.surroundings.tell(run, entries);
    }
}

/// A workload's replicas, asked for and ready, by a read of its own. `None`: it does not exist.
///
/// # Errors
/// The API server did not answer.
pub async fn read_replicas(
    client: &Client,
    namespace: &str,
    workload: &WorkloadRef,
) -> Result<Option<(i32, i32)>, client::Error> {
    let found = client::ask(objects::workloads(client, namespace, workload.kind).get_opt(&workload.name)).await?;
    Ok(found.map(|found| objects::workload_seen(&found)).map(|seen| (seen.replicas, seen.ready)))
}

/// Whether the right must be there: while something is about to be injected, or in force. A right that is withdrawn ends
/// the fault.
fn needs_permission(run: &Run) -> bool {
    run.status.experiments.iter().any(|status| match status.phase {
        ExperimentPhase::Arming | ExperimentPhase::Injecting | ExperimentPhase::Holding => true,
        ExperimentPhase::Pending
        | ExperimentPhase::Baseline
        | ExperimentPhase::Reverting
        | ExperimentPhase::Recovering
        | ExperimentPhase::Judged => false,
    })
}

/// Recorded pods that are not among those that the run looks at any more, and whose deletion was not seen: a label was
/// changed, or a list came that may be older than they are. Each is asked for before it counts as gone.
struct Gone {
    client: Client,
    namespace: String,
    asked: Arc<Mutex<Asked>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Asked {
    /// By uid: whether it is confirmed. `false`: it is being asked.
    pods: HashMap<String, bool>,
    /// A list is under way; further ones wait for it.
    listing: bool,
}

impl Gone {
    fn new(client: &Client, run: &RunId, changed: &Arc<Notify>) -> Self {
        Gone { client: client.clone(), namespace: run.namespace.clone(), asked: Arc::default(), changed: Arc::clone(changed) }
    }

    /// Those confirmed so far, without waiting; the others are asked for, and notify.
    /// `seen`: those whose deletion was seen.
    fn of(&self, status: &GameDayRunStatus, there: &BTreeSet<&str>, mut seen: BTreeSet<String>) -> BTreeSet<String> {
        let targets = status.experiments.iter().flat_map(|experiment| &experiment.targets);
        let missing: BTreeMap<&str, &str> = targets
            .filter(|target| target.kind == TargetKind::Pod && (target.bite.is_none() || target.clean.is_none()))
            .map(|target| (target.uid.as_str(), target.name.as_str()))
            .filter(|(uid, _)| !there.contains(uid) && !seen.contains(*uid))
            .collect();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<(String, String)> = missing
            .into_iter()
            .filter(|(uid, _)| !asked.pods.contains_key(*uid))
            .map(|(uid, name)| (uid.to_owned(), name.to_owned()))
            .collect();
        if new.len() <= FEW {
            for (uid, name) in new {
                asked.pods.insert(uid.clone(), false);
                self.confirm(vec![uid], Some(name));
            }
        } else if !asked.listing {
            asked.listing = true;
            let uids: Vec<String> = new.into_iter().map(|(uid, _)| uid).collect();
            asked.pods.extend(uids.iter().map(|uid| (uid.clone(), false)));
            self.confirm(uids, None);
        }
        seen.extend(asked.pods.iter().filter(|(_, gone)| **gone).map(|(uid, _)| uid.clone()));
        seen
    }

    /// Asks whether these are gone: one pod by its name, or any number by a list.
    fn confirm(&self, uids: Vec<String>, name: Option<String>) {
        let (client, namespace) = (self.client.clone(), self.namespace.clone());
        let (asked, changed) = (Arc::clone(&self.asked), Arc::clone(&self.changed));
        tokio::spawn(async move {
            let there = match &name {
                Some(name) => hands::uid_of(&client, &namespace, name).await.map(|uid| uid.into_iter().collect()),
                None => hands::uids(&client, &namespace).await,
            };
            let gone = |uid: &String| there.as_ref().is_ok_and(|there: &HashSet<String>| !there.contains(uid));
            if !uids.iter().all(gone) {
                if let Err(error) = &there {
                    tracing::warn!(namespace, %error, "whether pods are gone was not answered");
                }
                // It is asked again by the next observation.
                tokio::time::sleep(CONFIRM_AGAIN).await;
            }
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.listing &= name.is_some();
            for uid in uids {
                if gone(&uid) {
                    asked.pods.insert(uid, true);
                } else {
                    asked.pods.remove(&uid);
                }
            }
            drop(asked);
            changed.notify_one();
        });
    }
}
