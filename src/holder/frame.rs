//! What every fault has in common: how a hold begins, is watched, and ends.
//!
//! Why nothing here outlives its order: before anything is injected this process is bound to its parent's life
//! and to a kernel timer that kills it; what it then injects are things the kernel takes back when the process
//! that holds them ends. Everything after that is politeness: to end sooner, and to say so.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::CapabilitySet;

use super::event::{Bite, Clean, End, Event, Started};
use super::leash::{self, LastResort, Leash, Orders, Woke};
use super::order::{Fault, Order};
use super::target::Target;
use super::{mechanism, privilege, sys};

/// Longer than any game day; it keeps a slip of a zero from holding a fault for weeks.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3600);

/// How often the bite is measured and reported.
const BITE_EVERY: Duration = Duration::from_secs(1);

/// What a fault may use of the frame.
pub struct Ground<'a> {
    pub target: &'a Target,
    /// For workers, which arm it anew.
    pub last_resort: LastResort,
    pub seed: u64,
}

/// A fault that this process holds.
///
/// It is prepared with all privileges and injects nothing then; injected with those it names, and held with fewer;
/// reverted at the end, also after an injection that failed half way. Dropping it must revert as well, and so
/// must the end of the process: that is the point.
pub trait Hold {
    /// Capabilities that it cannot be injected without, where it does not keep them anyway.
    fn injects_with(&self) -> CapabilitySet {
        CapabilitySet::empty()
    }

    /// Capabilities that it cannot be held without. Fewer is better, none is usual.
    fn keeps(&self) -> CapabilitySet {
        CapabilitySet::empty()
    }

    /// Puts it in force, and says what that means in numbers.
    ///
    /// # Errors
    /// It cannot be; whatever was begun is reverted by the caller.
    fn inject(&mut self) -> Result<String, Refusal>;

    /// What wakes it.
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// When it wants a turn though nothing woke it, as time since boot.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// Does what there is to do now. It is called more often than it asked for, and must not wait.
    ///
    /// # Errors
    /// It is not in force any more, or only in part.
    fn turn(&mut self) -> Result<(), Lost>;

    /// Another line came on the pipe: the same fault with other parameters.
    ///
    /// # Errors
    /// It cannot be changed while it is held; it goes on as it was.
    fn revise(&mut self, fault: Fault) -> Result<(), Refusal> {
        let _ = fault;
        Err(Refusal::new("this fault cannot be changed while it is held"))
    }

    /// The target is gone: the end of most faults before their time, the very effect of one.
    ///
    /// # Errors
    /// It was not meant to go.
    fn target_gone(&mut self) -> Result<End, Lost> {
        Err(Lost::new("the target is gone"))
    }

    /// What it did since this was asked last.
    fn bite(&mut self) -> Bite;

    /// Takes it back and reads back what is left. Called once.
    fn revert(&mut self) -> Clean;
}

/// Nothing was injected, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// What was in force is not any more, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lost(String);

impl Refusal {
    pub fn new(why: impl Into<String>) -> Self {
        Refusal(why.into())
    }
}

impl Lost {
    pub fn new(why: impl Into<String>) -> Self {
        Lost(why.into())
    }
}

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Cleared = 0,
    NotClean = 1,
    NotUnderstood = 2,
    Lost = 3,
    Refused = 4,
}

/// Holds one fault from its order to its end.
///
/// # Guarantees
/// Nothing is injected before this process dies with its parent and at its last resort (`bind`), and before the
/// end of the order, of the length and of the target are watched (`Leash`). From then on there are two ways out
/// of here: through `revert`, or by the death of the process, which takes the fault along.
pub fn run(order: &Order, orders: Option<Orders>, report: &mut Report) -> Exit {
    let refused = |report: &mut Report, refusal: Refusal| {
        report.say(&Event::Refused { why: refusal.to_string() });
        Exit::Refused
    };
    let (last_resort, target) = match bind(order) {
        Ok(bound) => bound,
        Err(refusal) => return refused(report, refusal),
    };
    let ground = Ground { target: &target, last_resort, seed: order.seed };
    let watched = target.watch().and_then(|pidfd| Leash::new(last_resort, pidfd, orders));
    let prepared = watched.and_then(|leash| Ok((leash, mechanism::prepare(&order.fault, &ground)?)));
    let (mut leash, mut fault) = match prepared {
        Ok(prepared) => prepared,
        Err(refusal) => return refused(report, refusal),
    };
    let says = match inject(fault.as_mut()) {
        Ok(says) => says,
        Err(refusal) => {
            fault.revert();
            return refused(report, refusal);
        }
    };
    report.say(&Event::Started(Started { pid: target.pid, container: target.container.clone(), says }));
    let (ended, last_bite) = hold(fault.as_mut(), &mut leash, report);
    let clean = fault.revert();
    if let Some(bite) = last_bite {
        report.say(&Event::Bite(bite));
    }
    let is_clean = clean.clean;
    let exit = match &ended {
        _ if !is_clean => Exit::NotClean,
        Err(_) => Exit::Lost,
        Ok(End::Released | End::Signal | End::Length | End::Unheard | End::Done) => Exit::Cleared,
    };
    report.say(&match ended {
        Ok(end) => Event::Cleared { end, clean },
        // A worker in the target's cgroup may have been the first to notice.
        Err(lost) => Event::Lost { why: lost.to_string(), clean, target_gone: target.is_gone() },
    });
    exit
}

/// Everything that ends this process by itself, before it can do any harm; then whom to hit.
fn bind(order: &Order) -> Result<(LastResort, Target), Refusal> {
    let length = order.hold.as_std();
    if length.is_zero() || length > HOLD_MAX {
        return Err(Refusal::new(format!("a hold lasts more than nothing and at most 24h, not {}", order.hold)));
    }
    match sys::threads() {
        Ok(1) => {}
        Ok(count) => return Err(Refusal::new(format!("a holder has one thread, this process has {count}"))),
        Err(error) => return Err(Refusal::new(format!("cannot count this process's threads: {error}"))),
    }
    leash::die_with(order.parent.unwrap_or_else(leash::parent))?;
    let last_resort = LastResort::set(length)?;
    Ok((last_resort, Target::find(&order.target)?))
}

/// In force, with no more privileges than each step needs.
fn inject(fault: &mut dyn Hold) -> Result<String, Refusal> {
    privilege::keep_only(fault.injects_with() | fault.keeps())?;
    let says = fault.inject()?;
    privilege::keep_only(fault.keeps())?;
    Ok(says)
}

/// In force until something ends it. Returns why, and what it did since the last report.
fn hold(fault: &mut dyn Hold, leash: &mut Leash, report: &mut Report) -> (Result<End, Lost>, Option<Bite>) {
    let mut next_bite = sys::since_boot() + BITE_EVERY;
    loop {
        if report.is_unheard() {
            return (Ok(End::Unheard), Some(fault.bite()));
        }
        let wake = fault.due().map_or(next_bite, |due| due.min(next_bite));
        let woke = leash.wait(&fault.fds(), wake.saturating_sub(sys::since_boot()));
        match woke {
            Ok(Woke::TargetGone) => {
                return match fault.target_gone() {
                    Ok(end) => (Ok(end), Some(fault.bite())),
                    Err(lost) => (Err(lost), None),
                };
            }
            Ok(Woke::End(end)) => return (Ok(end), Some(fault.bite())),
            Ok(Woke::Line(line)) => revise(fault, &line),
            Ok(Woke::Fault) => {}
            // Not to know whether to end is to end.
            Err(error) => {
                tracing::error!(%error, "cannot watch for the end");
                return (Ok(End::Released), Some(fault.bite()));
            }
        }
        if let Err(lost) = fault.turn() {
            return (Err(lost), None);
        }
        if sys::since_boot() >= next_bite {
            next_bite += BITE_EVERY;
            report.say(&Event::Bite(fault.bite()));
        }
    }
}

fn revise(fault: &mut dyn Hold, line: &str) {
    let revised = serde_json::from_str::<Fault>(line).map_err(|error| Refusal::new(error.to_string()));
    if let Err(refusal) = revised.and_then(|revised| fault.revise(revised)) {
        tracing::warn!(%refusal, "an order to change was not followed");
    }
}

/// Events as lines on stdout. It never waits for its reader: a fault does not outlive its order for a pipe that
/// is full, so a line that finds no room is dropped.
#[derive(Default)]
pub struct Report {
    unheard: bool,
}

impl Report {
    pub fn say(&mut self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        let mut room = [PollFd::new(&stdout, PollFlags::OUT)];
        let ready = poll(&mut room, Some(&leash::timespec(Duration::ZERO)));
        if ready == Ok(0) {
            return;
        }
        self.unheard |= stdout.write_all(&line).and_then(|()| stdout.flush()).is_err();
    }

    pub fn is_unheard(&self) -> bool {
        self.unheard
    }
}
