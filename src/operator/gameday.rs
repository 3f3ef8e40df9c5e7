//! What becomes of game days: whether each is accepted, which runs are started, which old ones are deleted, and
//! what its status says of all that. When a start is due is decided by [`crate::engine::schedule`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use tokio::sync::Notify;

use crate::api::{Condition, ConditionStatus, GameDay, GameDayRun, GameDayRunSpec, GameDayStatus, LABEL_GAMEDAY, People, Stop};
use crate::cluster::client::{Error, FIELD_MANAGER, ask, write_status};
use crate::engine::schedule::{Circumstances, Decision, LISTED_MAX, Timetable, run_name};
use crate::engine::{admit, record};

use super::desk::{Desk, SeenRun, lock};
use super::draw;

/// Game days tended at once: each takes a few calls, and a slow one must not hold up the others.
const AT_ONCE: usize = 8;
/// A game day whose calls failed is tended again after this long.
const AGAIN: SignedDuration = SignedDuration::from_secs(1);
/// After a refused start (a quota, a webhook, a namespace that ends) the next is tried after twice this, then twice as
/// long each time.
const REFUSED_FIRST: Duration = Duration::from_secs(1);
/// A quota that was raised is noticed within this time.
const REFUSED_LONGEST: Duration = Duration::from_secs(60);
/// The wall clock may be set while we sleep: it is looked at again this often at least.
const LOOK: Duration = Duration::from_secs(60);
/// The condition of a game day whose run the API server refuses.
const REFUSED: &str = "StartRefused";
/// A run that was started is seen after milliseconds; after this long it must have been deleted at once.
const UNSEEN: Duration = Duration::from_secs(30);
/// The largest seed that a schema's integer and every JSON reader can hold.
const SEED_MAX: u64 = (1 << 53) - 1;

/// The game days as last seen, and when each is due.
#[derive(Default)]
pub struct Board {
    game_days: Mutex<HashMap<String, Kept>>,
    changed: Notify,
}

struct Kept {
    game_day: Arc<GameDay>,
    /// `None`: nothing is due before something changes.
    due: Option<Timestamp>,
    /// A run that was started and not seen since.
    started: Option<(String, Instant)>,
    /// How often a start was refused, one after the other, and when the next may be tried.
    refused: Option<(u32, Instant)>,
}

impl Board {
    pub fn put(&self, game_day: GameDay) {
        let uid = game_day.uid().unwrap_or_default();
        let mut game_days = lock(&self.game_days);
        let (started, refused) = game_days.remove(&uid).map(|kept| (kept.started, kept.refused)).unwrap_or_default();
        game_days.insert(uid, Kept { game_day: Arc::new(game_day), due: Some(Timestamp::MIN), started, refused });
        self.changed.notify_one();
    }

    pub fn remove(&self, uid: &str) {
        lock(&self.game_days).remove(uid);
    }

    pub fn keep_only(&self, uids: &HashSet<String>) {
        lock(&self.game_days).retain(|uid, _| uids.contains(uid));
    }

    /// One of its runs has changed.
    pub fn touch(&self, namespace: &str, name: &str) {
        let mut game_days = lock(&self.game_days);
        let its = |kept: &&mut Kept| {
            kept.game_day.metadata.name.as_deref() == Some(name) && kept.game_day.metadata.namespace.as_deref() == Some(namespace)
        };
        if let Some(kept) = game_days.values_mut().find(its) {
            kept.due = Some(Timestamp::MIN);
            self.changed.notify_one();
        }
    }

    /// Those that are due, none of them due any more.
    fn take_due(&self, now: Timestamp) -> Vec<Arc<GameDay>> {
        let mut game_days = lock(&self.game_days);
        let due = game_days.values_mut().filter(|kept| kept.due.is_some_and(|due| due <= now));
        due.map(|kept| {
            kept.due = None;
            Arc::clone(&kept.game_day)
        })
        .collect()
    }

    fn is_due_at(&self, uid: &str, at: Timestamp) {
        if let Some(kept) = lock(&self.game_days).get_mut(uid) {
            kept.due = Some(kept.due.map_or(at, |due| due.min(at)));
        }
    }

    fn has_started(&self, uid: &str, run: &str) {
        if let Some(kept) = lock(&self.game_days).get_mut(uid) {
            kept.started = Some((run.to_owned(), Instant::now()));
            kept.refused = None;
        }
    }

    /// How long nothing may be started, after a refusal.
    fn holds_off(&self, uid: &str) -> Option<Duration> {
        let (_, until) = lock(&self.game_days).get(uid)?.refused?;
        until.checked_duration_since(Instant::now()).filter(|left| *left > Duration::ZERO)
    }

    /// A start was refused: the next waits, longer each time. Returns how long.
    fn was_refused(&self, uid: &str) -> Duration {
        let mut game_days = lock(&self.game_days);
        let Some(kept) = game_days.get_mut(uid) else { return REFUSED_LONGEST };
        let times = kept.refused.map_or(0, |(times, _)| times).saturating_add(1);
        let wait = REFUSED_FIRST.saturating_mul(1 << times.min(10)).min(REFUSED_LONGEST);
        kept.refused = Some((times, Instant::now() + wait));
        wait
    }

    /// The run that was started and is not among these yet.
    fn started(&self, uid: &str, runs: &[Arc<SeenRun>]) -> Option<String> {
        let mut game_days = lock(&self.game_days);
        let kept = game_days.get_mut(uid)?;
        kept.started.take_if(|(name, at)| at.elapsed() > UNSEEN || runs.iter().any(|run| run.id.name == *name));
        kept.started.as_ref().map(|(name, _)| name.clone())
    }

    fn next_due(&self) -> Option<Timestamp> {
        lock(&self.game_days).values().filter_map(|kept| kept.due).min()
    }
}

/// Tends all game days, for ever.
pub async fn tend(desk: &Desk) {
    loop {
        let due = desk.board.take_due(Timestamp::now());
        let tending: Vec<_> = due.iter().map(|game_day| tend_one(desk, game_day)).collect();
        let tended: Vec<()> = futures::stream::iter(tending).buffer_unordered(AT_ONCE).collect().await;
        drop(tended);
        let wait = desk.board.next_due().map_or(LOOK, |due| {
            let until = due.duration_since(Timestamp::now());
            Duration::try_from(until).unwrap_or(Duration::ZERO).min(LOOK)
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = desk.board.changed.notified() => {}
        }
    }
}

async fn tend_one(desk: &Desk, game_day: &GameDay) {
    let (name, namespace) = (game_day.name_any(), game_day.namespace().unwrap_or_default());
    let uid = game_day.uid().unwrap_or_default();
    match try_to_tend(desk, game_day, &name, &namespace).await {
        Ok(Some(wake)) => desk.board.is_due_at(&uid, wake),
        Ok(None) => {}
        // A newer one is on its way through the watch.
        Err(error) if error.is_conflict() => {}
        Err(error) if error.is_not_found() => tracing::debug!(gameday = name, namespace, "deleted while it was tended"),
        Err(error) => {
            tracing::warn!(gameday = name, namespace, %error, "not tended; it is tried again");
            desk.board.is_due_at(&uid, Timestamp::now() + AGAIN);
        }
    }
}

/// Returns when it is due again, if nothing changes before.
async fn try_to_tend(desk: &Desk, game_day: &GameDay, name: &str, namespace: &str) -> Result<Option<Timestamp>, Error> {
    if game_day.metadata.deletion_timestamp.is_some() || !desk.leader.is_valid() {
        return Ok(None);
    }
    let now = Timestamp::now();
    let uid = game_day.uid().unwrap_or_default();
    let runs = desk.runs_of(namespace, name, &uid);
    let before = game_day.status.clone().unwrap_or_default();
    let mut status = GameDayStatus { observed_generation: game_day.metadata.generation, ..before.clone() };
    let admitted = admit::admit(&game_day.spec).map(drop).map_err(|problems| problems.to_string());
    let acceptable = admitted.is_ok();
    accept(&mut status, admitted, now);

    let mut wake = None;
    let started = desk.board.started(&uid, &runs);
    let under_way = runs.iter().rev().find(|run| !run.now().finished);
    let active = started.clone().or_else(|| under_way.map(|run| run.id.name.clone()));
    status.active = active.clone();
    status.last_run = started.or_else(|| runs.last().map(|run| run.id.name.clone())).or(status.last_run);
    if let Some(verdict) = runs.iter().rev().find_map(|run| run.now().verdict) {
        status.last_verdict = Some(verdict);
    }
    status.next_start = None;
    if !acceptable {
        // Nothing starts until it is mended.
    } else if let Some(schedule) = &game_day.spec.schedule {
        let Ok(timetable) = Timetable::new(schedule) else { return Ok(None) };
        let names: BTreeSet<String> = runs.iter().map(|run| run.id.name.clone()).collect();
        let circumstances =
            Circumstances { game_day: name, suspended: game_day.spec.suspend, active: active.as_deref(), runs: &names };
        let since = before.last_scheduled.or_else(|| game_day.creation_timestamp().map(|time| time.0)).unwrap_or(now);
        let decision = timetable.decide(since, now, circumstances);
        if let Some(minute) = decision.start {
            let run = run_name(name, minute);
            if let Some(again) = try_to_start(desk, game_day, &run, Some(minute), &mut status, now).await? {
                // What is due stays due, and is missed once its window closes.
                write_changed(desk, game_day, &status, &before).await?;
                return Ok(Some(again));
            }
        }
        if decision.stop_active
            && let Some(run) = under_way
        {
            replace(desk, run).await?;
        }
        wake = decision.wake;
        decided(&mut status, decision, game_day.spec.suspend);
    } else if !game_day.spec.suspend && before.last_run.is_none() && !runs.iter().any(|run| run.owner_uid() == Some(&uid)) {
        let run = once_name(game_day, name);
        wake = try_to_start(desk, game_day, &run, None, &mut status, now).await?;
    }
    write_changed(desk, game_day, &status, &before).await?;
    tidy(desk, game_day, namespace, &runs).await?;
    Ok(wake)
}

/// Starts a run, and says so in the status. Returns when to try again, where the API server refuses it: then the status
/// says that.
async fn try_to_start(
    desk: &Desk,
    game_day: &GameDay,
    run: &str,
    minute: Option<Timestamp>,
    status: &mut GameDayStatus,
    now: Timestamp,
) -> Result<Option<Timestamp>, Error> {
    let uid = game_day.uid().unwrap_or_default();
    let in_time = |wait: Duration| now + SignedDuration::try_from(wait).unwrap_or(AGAIN);
    if let Some(left) = desk.board.holds_off(&uid) {
        return Ok(Some(in_time(left)));
    }
    let refused = match start(desk, game_day, run, minute).await {
        Ok(()) => None,
        // Gone, or asked too often: neither is about this start.
        Err(error @ Error::Refused(_)) if !error.is_not_found() && !error.is_busy() => Some(error.in_words()),
        Err(error) => return Err(error),
    };
    let Some(why) = refused else {
        desk.board.has_started(&uid, run);
        status.last_run = Some(run.to_owned());
        status.active = Some(run.to_owned());
        status.conditions.retain(|condition| condition.kind != REFUSED);
        return Ok(None);
    };
    let wait = desk.board.was_refused(&uid);
    tracing::warn!(run, gameday = game_day.name_any(), namespace = game_day.namespace(), why, ?wait, "its start was refused");
    condition(status, REFUSED, ConditionStatus::True, "Refused", record::words(why), now);
    Ok(Some(in_time(wait)))
}

/// The name of the only run of a game day without a schedule: another game day of the same name is another.
pub fn once_name(game_day: &GameDay, name: &str) -> String {
    let uid = game_day.uid().unwrap_or_default();
    format!("{name}-{}", uid.get(..8).unwrap_or(&uid))
}

fn accept(status: &mut GameDayStatus, admitted: Result<(), String>, now: Timestamp) {
    let (is, reason, message) = match admitted {
        Ok(()) => (ConditionStatus::True, "Accepted", "it can be run as written".to_owned()),
        Err(problems) => (ConditionStatus::False, "Refused", problems),
    };
    condition(status, "Accepted", is, reason, message, now);
}

fn condition(status: &mut GameDayStatus, kind: &str, is: ConditionStatus, reason: &str, message: String, now: Timestamp) {
    let condition = Condition {
        kind: kind.to_owned(),
        status: is,
        reason: reason.to_owned(),
        message,
        last_transition_time: now,
        observed_generation: status.observed_generation,
    };
    condition.put(&mut status.conditions);
}

fn decided(status: &mut GameDayStatus, decision: Decision, suspended: bool) {
    let Decision { start: _, stop_active: _, missed, missed_count, uncounted: _, decided, next, wake: _ } = decision;
    status.last_scheduled = decided.or(status.last_scheduled);
    status.next_start = next.filter(|_| !suspended);
    status.missed += missed_count;
    status.missed_starts.extend(missed);
    let over = status.missed_starts.len().saturating_sub(LISTED_MAX);
    status.missed_starts.drain(..over);
}

/// Creates a run: a frozen copy of the game day. That it exists already is as good.
async fn start(desk: &Desk, game_day: &GameDay, run: &str, minute: Option<Timestamp>) -> Result<(), Error> {
    let (name, namespace) = (game_day.name_any(), game_day.namespace().unwrap_or_default());
    let mut frozen = game_day.spec.clone();
    frozen.seed = frozen.seed.or_else(|| i64::try_from(draw() & SEED_MAX).ok());
    let mut object = GameDayRun::new(
        run,
        GameDayRunSpec {
            game_day_name: name.clone(),
            scheduled_for: minute,
            game_day: frozen,
            stop: None,
            people: People::default(),
            bound: None,
        },
    );
    object.metadata = ObjectMeta {
        name: Some(run.to_owned()),
        namespace: Some(namespace.clone()),
        labels: Some([(LABEL_GAMEDAY.to_owned(), name.clone())].into()),
        owner_references: game_day.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let api: Api<GameDayRun> = Api::namespaced(desk.client.clone(), &namespace);
    match ask(api.create(&params, &object)).await {
        Ok(_) => tracing::info!(run, namespace, gameday = name, "a run is started"),
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Asks the run under way to stop, for the next to start.
async fn replace(desk: &Desk, run: &SeenRun) -> Result<(), Error> {
    if run.now().stop.is_some() {
        return Ok(());
    }
    let stop = Stop { reason: "the next start is due, and ifRunning is Replace".to_owned(), by: Some("the schedule".to_owned()) };
    let change = serde_json::json!({"metadata": {"uid": run.id.uid}, "spec": {"stop": stop}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let api: Api<GameDayRun> = Api::namespaced(desk.client.clone(), &run.id.namespace);
    ask(api.patch(&run.id.name, &params, &Patch::Merge(change))).await.map(drop)
}

async fn write_changed(desk: &Desk, game_day: &GameDay, status: &GameDayStatus, before: &GameDayStatus) -> Result<(), Error> {
    if status == before {
        return Ok(());
    }
    write_status::<GameDay>(&desk.client, &game_day.metadata, status).await.map(drop)
}

/// Deletes the oldest finished runs beyond those that are kept.
async fn tidy(desk: &Desk, game_day: &GameDay, namespace: &str, runs: &[Arc<SeenRun>]) -> Result<(), Error> {
    let finished: Vec<&Arc<SeenRun>> = runs.iter().filter(|run| run.now().finished && !run.is_deleted()).collect();
    let keep = usize::try_from(game_day.spec.keep).unwrap_or(0);
    let api: Api<GameDayRun> = Api::namespaced(desk.client.clone(), namespace);
    for run in &finished[..finished.len().saturating_sub(keep)] {
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(run.id.uid.clone()), resource_version: None }),
            ..DeleteParams::background()
        };
        match ask(api.delete(&run.id.name, &params)).await {
            Ok(_) => tracing::info!(run = run.id.name, namespace, "an old run is deleted"),
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
