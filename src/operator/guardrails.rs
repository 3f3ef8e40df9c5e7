//! Guardrails as the operator last saw them, what is in force over all runs, and the picture that is made of both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::core::DeserializeGuard;
use kube::{Client, ResourceExt};
use tokio::sync::Notify;

use crate::api::{AlertQuery, Approval, Condition, ConditionStatus, GameDayRunStatus, Guardrail};
use crate::cluster::client::{Error, ask, write_status};
use crate::cluster::{Change, Inventory};
use crate::engine::guarded::{self, Recorded};
use crate::engine::guardrail::{self, AlertShown, BUILT_IN, BUILT_IN_YAML, Named, Pass, Picture};
use crate::engine::{Guarded, Run};

use super::desk::{Desk, lock};

/// The built-in guardrail is looked for again so often, and conditions that could not be written are tried again.
const LOOK: Duration = Duration::from_secs(30);

pub struct Guardrails {
    inventory: Arc<Inventory>,
    /// Where the operator and its agents live: never hit.
    own_namespaces: BTreeSet<String>,
    seen: Mutex<Seen>,
    force: Mutex<Force>,
    passes: Mutex<Passes>,
    alerts: Mutex<Alerts>,
    picture: Mutex<Option<Made>>,
    news: Notify,
}

#[derive(Default)]
struct Seen {
    by_uid: HashMap<String, Guardrail>,
    named: Arc<Vec<Named>>,
    read: bool,
}

/// What is in force, by run.
#[derive(Default)]
struct Force {
    by_run: HashMap<String, Vec<Recorded>>,
    version: u64,
    /// Whether all runs have been read.
    read: bool,
}

/// Experiments that passed, by run, and all of them.
#[derive(Default)]
struct Passes {
    by_run: HashMap<String, Vec<Pass>>,
    all: Arc<Vec<Pass>>,
}

/// The last answers.
#[derive(Default)]
struct Alerts {
    shown: BTreeMap<(String, String), AlertShown>,
    version: u64,
}

/// A picture, with what it was made of.
struct Made {
    cluster: u64,
    force: u64,
    alerts: u64,
    synced: bool,
    picture: Arc<Picture>,
}

impl Guardrails {
    pub fn new(inventory: &Arc<Inventory>, own_namespaces: BTreeSet<String>) -> Self {
        Guardrails {
            inventory: Arc::clone(inventory),
            own_namespaces,
            seen: Mutex::default(),
            force: Mutex::default(),
            passes: Mutex::default(),
            alerts: Mutex::default(),
            picture: Mutex::default(),
            news: Notify::new(),
        }
    }

    pub fn see(&self, change: Change<DeserializeGuard<Guardrail>>) {
        let mut seen = lock(&self.seen);
        match change {
            Change::Is(DeserializeGuard(Ok(guardrail))) => {
                seen.by_uid.insert(guardrail.uid().unwrap_or_default(), guardrail);
            }
            Change::Is(DeserializeGuard(Err(invalid))) => {
                // The schema lets nothing else through; what was known of it holds on.
                tracing::error!(guardrail = invalid.metadata.name, error = invalid.error, "a guardrail cannot be read");
            }
            Change::Gone(guardrail) => {
                seen.by_uid.remove(guardrail.uid().as_deref().unwrap_or_default());
            }
            Change::Only(uids) => {
                seen.by_uid.retain(|uid, _| uids.contains(uid));
                seen.read = true;
            }
        }
        seen.named = Arc::new(seen.by_uid.values().map(Named::of).collect());
        drop(seen);
        self.news.notify_one();
    }

    /// Those in which a run may have a slot or a place in the queue: that cover it, or that were seen to have it.
    pub fn with_slots_of(&self, run: &Run) -> BTreeSet<String> {
        let has_it = |guardrail: &&Guardrail| {
            let status = guardrail.status.iter();
            let uids = status.flat_map(|status| {
                status.runs.iter().map(|slot| &slot.uid).chain(status.waiting.iter().map(|queued| &queued.uid))
            });
            uids.into_iter().any(|uid| *uid == run.id.uid)
        };
        let covering = self.guarded().slots(run).into_iter().map(|(name, _)| name);
        covering.chain(lock(&self.seen).by_uid.values().filter(has_it).map(ResourceExt::name_any)).collect()
    }

    /// As the watch last showed them.
    pub fn all(&self) -> Vec<Guardrail> {
        lock(&self.seen).by_uid.values().cloned().collect()
    }

    /// What is to be asked: by guardrail, of which Prometheus.
    pub fn alerts(&self) -> Vec<(String, String, AlertQuery)> {
        let seen = lock(&self.seen);
        let of = |guardrail: &Guardrail| {
            let rule = guardrail.spec.moment.alerts.clone()?;
            let name = guardrail.name_any();
            Some(rule.queries.into_iter().map(move |query| (name.clone(), rule.prometheus.clone(), query)))
        };
        seen.by_uid.values().filter_map(of).flatten().collect()
    }

    pub fn answered(&self, answers: Vec<((String, String), AlertShown)>) {
        let mut alerts = lock(&self.alerts);
        alerts.shown.extend(answers);
        alerts.version += 1;
    }

    /// All runs have been read, and what they have in force is told.
    pub fn runs_are_read(&self) {
        let mut force = lock(&self.force);
        force.read = true;
        force.version += 1;
    }

    /// What a run has in force, by its record.
    pub fn tell(&self, run: &Run) {
        self.put(&mut lock(&self.force), &run.id.uid, guarded::recorded(run));
    }

    /// A run is over, or not this process's any more.
    pub fn forget(&self, uid: &str) {
        self.put(&mut lock(&self.force), uid, Vec::new());
    }

    fn put(&self, force: &mut Force, uid: &str, recorded: Vec<Recorded>) {
        let before = if recorded.is_empty() {
            force.by_run.remove(uid).unwrap_or_default()
        } else {
            force.by_run.insert(uid.to_owned(), recorded.clone()).unwrap_or_default()
        };
        if before != recorded {
            force.version += 1;
        }
    }

    /// A run does not exist any more.
    pub fn gone(&self, uid: &str) {
        let mut passes = lock(&self.passes);
        if passes.by_run.remove(uid).is_some() {
            passes.all = Arc::new(passes.by_run.values().flatten().cloned().collect());
        }
    }

    pub fn passed(&self, run: &Run) {
        let passed = guarded::passes(run);
        if !passed.is_empty() {
            let mut passes = lock(&self.passes);
            passes.by_run.insert(run.id.uid.clone(), passed);
            passes.all = Arc::new(passes.by_run.values().flatten().cloned().collect());
        }
    }

    pub fn guarded(&self) -> Guarded {
        self.guarded_with(&lock(&self.force))
    }

    fn guarded_with(&self, force: &Force) -> Guarded {
        let (guardrails, read) = {
            let seen = lock(&self.seen);
            (Arc::clone(&seen.named), seen.read)
        };
        let passes = Arc::clone(&lock(&self.passes).all);
        let cluster = self.inventory.version();
        let alerts = lock(&self.alerts);
        let mut made = lock(&self.picture);
        let synced = read && force.read;
        let in_force = |picture: &Picture| force.by_run.values().flatten().map(|recorded| recorded.hit(picture)).collect();
        if let Some(made) = made.as_mut()
            && (made.cluster, made.alerts, made.synced) == (cluster, alerts.version, synced)
        {
            // Thousands of pods are not copied for what a run has just recorded, unless somebody still looks at them.
            if made.force != force.version
                && let Some(picture) = Arc::get_mut(&mut made.picture)
            {
                picture.in_force = in_force(picture);
                made.force = force.version;
            }
            if made.force == force.version {
                return Guarded { guardrails, picture: Arc::clone(&made.picture), passes };
            }
        }
        let mut picture = self.inventory.picture();
        picture.synced &= synced;
        picture.alerts = alerts.shown.clone();
        picture.own_namespaces = self.own_namespaces.clone();
        picture.in_force = in_force(&picture);
        let picture = Arc::new(picture);
        *made = Some(Made { cluster, force: force.version, alerts: alerts.version, synced, picture: Arc::clone(&picture) });
        Guarded { guardrails, picture, passes }
    }

    /// Claims what a run is about to record, unless another run has claimed since it was asked what would now be too much.
    pub fn claim(&self, run: &Run, before: &GameDayRunStatus, approvals: &[Approval], now: Timestamp) -> bool {
        let mut force = lock(&self.force);
        let guarded = self.guarded_with(&force);
        let may = guarded.may_claim(run, before, approvals, now);
        if may {
            self.put(&mut force, &run.id.uid, guarded::recorded(run));
        }
        may
    }
}

/// Keeps the built-in guardrail, and says of each whether it can be obeyed.
pub async fn tend(desk: &Arc<Desk>) {
    let guardrails = &desk.guardrails;
    loop {
        if desk.leader.is_valid() {
            let (all, read) = {
                let seen = lock(&guardrails.seen);
                (seen.by_uid.values().cloned().collect::<Vec<_>>(), seen.read)
            };
            if read
                && !all.iter().any(|guardrail| guardrail.name_any() == BUILT_IN)
                && let Err(error) = make_built_in(&desk.client).await
            {
                tracing::warn!(%error, "the built-in guardrail could not be made; it is tried again");
            }
            for guardrail in all {
                match say_valid(&desk.client, &guardrail).await {
                    Ok(()) => {}
                    // Its newer version is on its way.
                    Err(error) if error.is_conflict() || error.is_not_found() => {}
                    Err(error) => {
                        tracing::warn!(guardrail = guardrail.name_any(), %error, "its condition could not be written");
                    }
                }
            }
        }
        // Either way it is looked at again.
        let _ = tokio::time::timeout(LOOK, guardrails.news.notified()).await;
    }
}

async fn make_built_in(client: &Client) -> Result<(), Error> {
    let built_in: Guardrail = serde_saphyr::from_str(BUILT_IN_YAML).map_err(|error| Error::Unclear(error.to_string()))?;
    match ask(Api::all(client.clone()).create(&PostParams::default(), &built_in)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}

async fn say_valid(client: &Client, guardrail: &Guardrail) -> Result<(), Error> {
    let mut status = guardrail.status.clone().unwrap_or_default();
    let (is, reason, message) = match guardrail::check::check(&guardrail.spec) {
        Ok(()) => (ConditionStatus::True, "Valid", "it can be obeyed as written".to_owned()),
        Err(problems) => (ConditionStatus::False, "Invalid", problems.to_string()),
    };
    let condition = Condition {
        kind: "Valid".to_owned(),
        status: is,
        reason: reason.to_owned(),
        message,
        last_transition_time: Timestamp::now(),
        observed_generation: guardrail.metadata.generation,
    };
    let before = status.conditions.clone();
    condition.put(&mut status.conditions);
    if status.conditions == before {
        return Ok(());
    }
    status.observed_generation = guardrail.metadata.generation;
    write_status::<Guardrail>(client, &guardrail.metadata, &status).await.map(drop)
}
