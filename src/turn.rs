//! The World that a run asks for things, and the loop that every run goes through, real or rehearsed.
//!
//! One turn: observe, step, revert, record, inject. Injecting is recorded before it is performed; reverting is
//! performed before it is recorded, so that no write stands between a breach and its end (P1, P4).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use futures::StreamExt;
use jiff::Timestamp;

use crate::api::{Entry, FaultKind, GameDayRunStatus, RunPhase};
use crate::engine::{self, Action, Observation, Outcome, Performed, Run, SlotSeen, limits, record};

/// Actions under way at once. Enough that 200 deletes take a fraction of a second, few enough that the API
/// server's fairness does not queue us.
const AT_ONCE: usize = 32;

/// What a run may ask of the world it runs in.
pub trait World {
    /// The time, never going backwards.
    fn now(&self) -> Timestamp;

    /// The run as last written, with what is needed to write it again. `None`: it does not exist any more.
    fn load(&self) -> impl Future<Output = Result<Option<Loaded>, Trouble>>;

    /// What is seen of the world. It may be stale, but never invented.
    fn observe(&self, run: &Run) -> impl Future<Output = Result<Observation, Trouble>>;

    /// Writes the run's status, if nobody has written the run since `version`.
    fn record(&self, run: &Run, version: &str, status: &GameDayRunStatus) -> impl Future<Output = Result<String, RecordError>>;

    /// Whether this status may be recorded, which names targets that `run` does not name yet. Once it may, everybody
    /// else who is asked counts them.
    fn claim(&self, run: &Run, status: &GameDayRunStatus) -> bool;

    /// Takes a slot for a run that waits for nothing else, or says for whom it waits. The second is the run's new
    /// version, where it had to be written.
    fn slot(&self, run: &Run, version: &str) -> impl Future<Output = Result<(SlotSeen, Option<String>), RecordError>>;

    /// Does one thing. Never called for an injection that is not recorded.
    fn perform(&self, run: &Run, action: &Action) -> impl Future<Output = Outcome>;

    /// Sees to it that agents answer on these nodes. Does not wait.
    fn need(&self, run: &Run, nodes: &BTreeMap<String, BTreeSet<FaultKind>>);

    /// Told after entries have been recorded, for logs and events. Must not fail the run.
    fn tell(&self, run: &Run, entries: &[Entry]);
}

/// A run with the version that a write must name.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub run: Run,
    pub version: String,
}

/// The world did not answer, or this process may not act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    NoAnswer(String),
    /// Another operator leads: this one must neither write nor act.
    #[error("another operator leads")]
    NotLeading,
}

/// A record that was not written, or of which it is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the run was changed by somebody else")]
    Conflict,
    #[error("the run is gone")]
    Gone,
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// A run under way: the working copy between two records.
pub struct Turn {
    run: Run,
    version: String,
    /// Not found when it was last written: it goes on only to revert.
    gone: bool,
    outcomes: BTreeMap<String, Performed>,
    unrecorded: Vec<Entry>,
    recorded: GameDayRunStatus,
    recorded_at: Option<Timestamp>,
    slot: SlotSeen,
}

/// Whether a status names targets that another does not.
fn names_more(status: &GameDayRunStatus, before: &GameDayRunStatus) -> bool {
    let targets = |status: &GameDayRunStatus| status.experiments.iter().map(|experiment| experiment.targets.len()).sum::<usize>();
    targets(status) > targets(before)
}

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another turn at this time, or when something changes.
    At(Timestamp),
    /// The run is finished and recorded, or gone with nothing in force.
    Over,
}

impl Turn {
    /// Takes up a run where its record left off.
    pub fn new(loaded: Loaded) -> Self {
        let Loaded { run, version } = loaded;
        Turn {
            recorded: run.status.clone(),
            run,
            version,
            gone: false,
            outcomes: BTreeMap::new(),
            unrecorded: Vec::new(),
            recorded_at: None,
            slot: SlotSeen::Unasked,
        }
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Whether it has not begun, and is not about to.
    pub fn waits(&self) -> bool {
        self.run.status.phase == RunPhase::Waiting && self.slot != SlotSeen::Taken
    }

    /// One turn.
    ///
    /// # Guarantees
    /// An injection is performed only after a record that names it was written and confirmed.
    ///
    /// # Errors
    /// [`Trouble`] when the world gives no answer; the caller takes another turn, soon. After a conflict or a
    /// lost reply the run is read again first, and what it says counts.
    pub async fn take<W: World>(&mut self, world: &W) -> Result<Next, Trouble> {
        let mut seen = world.observe(&self.run).await?;
        seen.deleted |= self.gone;
        seen.outcomes = self.outcomes.clone();
        seen.slot = self.slot.clone();
        let now = world.now();
        let step = engine::step(&self.run, &seen, now);

        if !step.nodes.is_empty() {
            world.need(&self.run, &step.nodes);
        }
        let (reverts, injections): (Vec<Action>, Vec<Action>) = step.actions.into_iter().partition(Action::reverts);
        let mut acted = self.perform(world, &reverts).await;
        if names_more(&step.state, &self.run.status) && !world.claim(&self.run, &step.state) {
            // Another run was quicker; the next observation shows it.
            return Ok(Next::At(now));
        }

        self.unrecorded.extend(step.entries.iter().cloned());
        self.run.status = step.state;
        record::append(&mut self.run.status, step.entries);
        let due = self.recorded_at.is_none_or(|at| now.duration_since(at) >= limits::REFRESH.as_signed());
        let changed = self.run.status != self.recorded;
        // With a slot it begins at once: there is nothing to say before that is known.
        let asks_first = step.wants_slot && self.slot == SlotSeen::Unasked;
        let due = due && !asks_first;
        if changed && !self.gone && (step.urgent || due || step.wake.is_none()) && !self.record(world, now).await? {
            return Ok(Next::At(now));
        }
        if step.wants_slot && !self.gone {
            let before = self.slot.clone();
            self.slot = match world.slot(&self.run, &self.version).await {
                Ok((slot, written)) => {
                    self.version = written.unwrap_or_else(|| self.version.clone());
                    slot
                }
                Err(RecordError::Trouble(trouble)) => return Err(trouble),
                Err(RecordError::Conflict | RecordError::Gone) => {
                    self.reload(world).await?;
                    SlotSeen::Unasked
                }
            };
            if self.slot != before {
                return Ok(Next::At(now));
            }
        }
        let recorded: Vec<Action> = injections.into_iter().filter(|action| self.is_recorded(action)).collect();
        acted |= self.perform(world, &recorded).await;
        Ok(match step.wake {
            None => Next::Over,
            // What became of the actions is news.
            Some(_) if acted => Next::At(now),
            Some(wake) if changed && !self.gone => Next::At(wake.min(now + limits::REFRESH.as_signed())),
            Some(wake) => Next::At(wake),
        })
    }

    /// Writes what has not been written yet, before the loop is left.
    ///
    /// # Errors
    /// [`Trouble`] when it was not written. Nothing is lost by it that another turn would not see again.
    pub async fn flush<W: World>(&mut self, world: &W) -> Result<(), Trouble> {
        if !self.gone && self.run.status != self.recorded {
            self.record(world, world.now()).await?;
        }
        Ok(())
    }

    /// Writes the working copy. `false`: it was not written, and the working copy is what the world has now.
    async fn record<W: World>(&mut self, world: &W, now: Timestamp) -> Result<bool, Trouble> {
        match world.record(&self.run, &self.version, &self.run.status).await {
            Ok(version) => {
                self.version = version;
                self.recorded = self.run.status.clone();
                self.recorded_at = Some(now);
                let entries = std::mem::take(&mut self.unrecorded);
                world.tell(&self.run, &entries);
                Ok(true)
            }
            Err(RecordError::Trouble(Trouble::NotLeading)) => Err(Trouble::NotLeading),
            // The write may have happened: only what the world has now counts.
            Err(RecordError::Conflict | RecordError::Gone | RecordError::Trouble(Trouble::NoAnswer(_))) => {
                self.reload(world).await?;
                Ok(false)
            }
        }
    }

    /// Whether the last written record names this action's target (P1).
    fn is_recorded(&self, action: &Action) -> bool {
        !self.gone
            && self.recorded.experiments.iter().any(|experiment| {
                experiment.name == action.experiment && experiment.targets.iter().any(|target| target.uid == action.target.uid)
            })
    }

    async fn reload<W: World>(&mut self, world: &W) -> Result<(), Trouble> {
        self.unrecorded.clear();
        // Until the world has answered, what was recorded last is all that may be built on.
        self.run.status = self.recorded.clone();
        match world.load().await? {
            Some(Loaded { run, version }) if run.id == self.run.id => {
                self.recorded = run.status.clone();
                self.run = run;
                self.version = version;
            }
            Some(_) | None => self.gone = true,
        }
        Ok(())
    }

    /// Performs these, and says whether there were any.
    async fn perform<W: World>(&mut self, world: &W, actions: &[Action]) -> bool {
        let run = &self.run;
        // Futures, not a closure that makes them: with a closure the compiler cannot tell that this is `Send`.
        let doing: Vec<_> = actions
            .iter()
            .map(|action| async move {
                let outcome = match world.perform(run, action).await {
                    Outcome::Done => Outcome::Done,
                    Outcome::Refused(why) => Outcome::Refused(record::words(why)),
                    Outcome::Failed(why) => Outcome::Failed(record::words(why)),
                };
                (action.target.uid.clone(), Performed { at: world.now(), reverting: action.reverts(), outcome })
            })
            .collect();
        let performed: Vec<(String, Performed)> = futures::stream::iter(doing).buffer_unordered(AT_ONCE).collect().await;
        self.outcomes.extend(performed);
        !actions.is_empty()
    }
}
