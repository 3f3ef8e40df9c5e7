//! The world of a pretended operator. A call takes a little virtual time on its way, has its effect, and takes
//! a little more on its way back; misfortunes are put at its effect. Every call is counted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use jiff::Timestamp;

use crate::api::{Duration, Entry, FaultKind, GameDayRunStatus};
use crate::engine::{Action, Observation, Outcome, Run, SlotSeen};
use crate::turn::{Loaded, Next, RecordError, Trouble, Turn, World};

use super::misfortune::Misfortune;
use super::sampler::Sampler;
use super::stage::Stage;

/// Each half of a call. A local API server answers a write in a few milliseconds.
const HALF_WAY: Duration = Duration::from_millis(3);
/// A call that is not answered is given up after this long.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// An operator that got no answer takes another turn after this long.
const AGAIN: Duration = Duration::from_millis(200);

/// One operator's way to the stage that all of them share.
pub struct Pretend {
    stage: Rc<RefCell<Stage>>,
    me: usize,
}

/// What a call may do after its misfortune.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Happens,
    HappensUnanswered,
    HappensFatally,
    Unanswered,
    Conflicts,
}

impl Pretend {
    pub fn new(stage: Rc<RefCell<Stage>>, me: usize) -> Self {
        Pretend { stage, me }
    }

    fn pause(&self, length: Duration) -> Pause<'_> {
        let until = self.stage.borrow().now() + length.as_signed();
        Pause { world: self, until, wakes_on_news: false }
    }

    /// The next turn: at this time, or when something changes.
    fn until(&self, until: Timestamp) -> Pause<'_> {
        Pause { world: self, until, wakes_on_news: true }
    }

    /// The process is lost: nothing comes after this.
    async fn die<T>(&self) -> T {
        std::future::pending().await
    }

    /// Counts a call and finds what befalls it. `may_conflict`: whether somebody else can be in its way.
    /// `needs_answer`: whether it fails while the API server does not answer.
    async fn arrive(&self, may_conflict: bool, needs_answer: bool) -> Fate {
        let befell = {
            let mut stage = self.stage.borrow_mut();
            if stage.is_lost(self.me) { None } else { Some(stage.befall(may_conflict)) }
        };
        match befell {
            None => self.die().await,
            Some(None) if needs_answer && self.stage.borrow().is_out() => Fate::Unanswered,
            Some(None) => Fate::Happens,
            Some(Some(Misfortune::CrashBefore)) => {
                self.stage.borrow_mut().lose(self.me);
                self.die().await
            }
            Some(Some(Misfortune::CrashAfter)) => Fate::HappensFatally,
            Some(Some(Misfortune::ReplyLost)) => Fate::HappensUnanswered,
            Some(Some(Misfortune::NoAnswer)) => Fate::Unanswered,
            Some(Some(Misfortune::Conflict)) => Fate::Conflicts,
            Some(Some(_)) => Fate::Happens,
        }
    }

    /// What remains of a call after its effect. `Err`: there is no answer.
    async fn leave(&self, fate: Fate) -> Result<(), Trouble> {
        match fate {
            Fate::Happens | Fate::Conflicts => {
                self.pause(HALF_WAY).await;
                Ok(())
            }
            Fate::HappensFatally => {
                self.stage.borrow_mut().lose(self.me);
                self.die().await
            }
            Fate::HappensUnanswered | Fate::Unanswered => {
                self.pause(GIVEN_UP).await;
                Err(Trouble::NoAnswer(format!("no answer within {GIVEN_UP}")))
            }
        }
    }
}

impl World for Pretend {
    fn now(&self) -> Timestamp {
        self.stage.borrow().now()
    }

    async fn load(&self) -> Result<Option<Loaded>, Trouble> {
        self.pause(HALF_WAY).await;
        let fate = self.arrive(false, true).await;
        let loaded = self.stage.borrow().load();
        self.leave(fate).await?;
        Ok(loaded)
    }

    async fn observe(&self, run: &Run) -> Result<Observation, Trouble> {
        // The caches answer, also where the API server does not; they are frozen then.
        let fate = self.arrive(false, false).await;
        if fate != Fate::Happens {
            self.leave(fate).await?;
        }
        Ok(self.stage.borrow_mut().observe(self.me, run))
    }

    async fn record(&self, run: &Run, version: &str, status: &GameDayRunStatus) -> Result<String, RecordError> {
        self.pause(HALF_WAY).await;
        let fate = self.arrive(true, true).await;
        let written = match fate {
            Fate::Unanswered => Err(RecordError::Conflict),
            Fate::Happens | Fate::HappensUnanswered | Fate::HappensFatally | Fate::Conflicts => {
                let mut stage = self.stage.borrow_mut();
                if fate == Fate::Conflicts {
                    stage.touch();
                }
                stage.record(self.me, run, version, status)
            }
        };
        self.leave(fate).await?;
        written
    }

    fn claim(&self, _run: &Run, _status: &GameDayRunStatus) -> bool {
        // There is no other run.
        true
    }

    async fn slot(&self, _run: &Run, _version: &str) -> Result<(SlotSeen, Option<String>), RecordError> {
        Ok((SlotSeen::Taken, None))
    }

    async fn perform(&self, run: &Run, action: &Action) -> Outcome {
        self.pause(HALF_WAY).await;
        let fate = self.arrive(true, true).await;
        let outcome = match fate {
            Fate::Unanswered => Outcome::Failed("no answer".to_owned()),
            Fate::Conflicts => Outcome::Failed("the object was changed by somebody else".to_owned()),
            Fate::Happens | Fate::HappensUnanswered | Fate::HappensFatally => self.stage.borrow_mut().perform(run, action),
        };
        match self.leave(fate).await {
            Ok(()) => outcome,
            Err(trouble) => Outcome::Failed(trouble.to_string()),
        }
    }

    fn need(&self, _run: &Run, _nodes: &BTreeMap<String, BTreeSet<FaultKind>>) {
        // Pretended nodes have their agents.
    }

    fn tell(&self, run: &Run, entries: &[Entry]) {
        self.stage.borrow_mut().tell(run, entries);
    }
}

/// A pretended operator's life with one run: take it up, take turns until it is over.
pub async fn operate(world: Pretend) {
    let loaded = loop {
        match world.load().await {
            Ok(Some(loaded)) => break loaded,
            Ok(None) => return,
            Err(_) => world.pause(AGAIN).await,
        }
    };
    {
        let mut stage = world.stage.borrow_mut();
        let now = stage.now();
        let sampler = Sampler::new(&loaded.run.spec.game_day.steady_state, &loaded.run.status.probes, now);
        stage.watch(world.me, sampler);
    }
    let mut turn = Turn::new(loaded);
    loop {
        world.stage.borrow_mut().turns += 1;
        match turn.take(&world).await {
            Ok(Next::At(at)) => world.until(at).await,
            Ok(Next::Over) => return,
            Err(Trouble::NoAnswer(_)) => world.pause(AGAIN).await,
            Err(Trouble::NotLeading) => return,
        }
    }
}

/// Ready when virtual time has come so far. Tells the stage when to poll again.
struct Pause<'a> {
    world: &'a Pretend,
    until: Timestamp,
    wakes_on_news: bool,
}

impl Future for Pause<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut stage = self.world.stage.borrow_mut();
        let news = if self.wakes_on_news { stage.news_at(self.world.me) } else { None };
        if stage.now() >= news.map_or(self.until, |news| news.min(self.until)) {
            return Poll::Ready(());
        }
        if self.wakes_on_news {
            stage.idle_until(self.world.me, self.until);
        } else {
            stage.wake_at(self.world.me, self.until, cx.waker().clone());
        }
        Poll::Pending
    }
}
