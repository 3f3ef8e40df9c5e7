//! Work in progress: the slots of guardrails, as values for compare-and-swap.
//!
//! A run begins only with a slot of every guardrail that covers it: all or none. It waits in every queue under
//! one ticket, the moment it began to wait, so the queues agree on who is first: the oldest ticket of all
//! waits for nobody but those at work, and nobody overtakes it. What is written follows from what was read, and
//! a write that somebody came before is dropped and asked for anew; so no crash and no second operator leaves
//! anything that the next look does not mend.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::api::{GuardrailStatus, Queued, Slot, limits};

/// A run's place in every queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub namespace: String,
    pub run: String,
    pub uid: String,
    /// When it began to wait. It must be the same in every call, also after a restart: it is recorded.
    pub since: Timestamp,
}

/// A guardrail that covers the run, as last read.
#[derive(Clone, Copy, Debug)]
pub struct Board<'a> {
    pub name: &'a str,
    /// Runs at once.
    pub limit: usize,
    pub status: &'a GuardrailStatus,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// It has a slot everywhere.
    Taken,
    /// Write this status, if nobody has written since it was read; then, whatever came of it, read and ask
    /// again.
    Write {
        guardrail: String,
        status: GuardrailStatus,
    },
    /// As Write, but write the run first, on the version that was loaded before the boards were read: whoever
    /// has it begin on the slots that are given back here must lose that race.
    GiveBack {
        guardrail: String,
        status: GuardrailStatus,
    },
    Wait(Waits),
}

/// Why a run waits: for whom, since when, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    pub guardrail: String,
    pub limit: usize,
    /// Those at work, as `namespace/run`, with the moment when they began.
    pub at_work: Vec<(String, Timestamp)>,
    /// Those ahead in the queue.
    pub ahead: usize,
    pub since: Timestamp,
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Waits { guardrail, limit, at_work, ahead, since } = self;
        let runs = if *limit == 1 { "1 run".to_owned() } else { format!("{limit} runs") };
        write!(f, "guardrail {guardrail}, runs: it allows {runs} at once")?;
        let names: Vec<String> = at_work.iter().map(|(name, taken)| format!("{name} since {taken:.0}")).collect();
        if !names.is_empty() {
            write!(f, "; at work: {}", names.join(", "))?;
        }
        write!(f, "; number {} in the queue since {since:.0}", ahead + 1)
    }
}

/// A run that has not begun: what brings it a slot everywhere.
///
/// `over`: uids of runs that are known to be finished or gone, by a read of their own. Whoever is merely not
/// seen keeps its slot.
///
/// # Assumes
/// The run was loaded before the boards were read, and where this says Taken, it begins by a write on that
/// version.
///
/// # Guarantees
/// No write takes a slot beyond a limit, or past somebody who waits longer. Where not all slots can be had, one
/// that is held is given back.
pub fn turn(boards: &[Board], ticket: &Ticket, over: &BTreeSet<String>, now: Timestamp) -> Next {
    let mut boards: Vec<(&Board, GuardrailStatus)> =
        boards.iter().map(|board| (board, sweep(board.status, over).unwrap_or_else(|| board.status.clone()))).collect();
    boards.sort_by_key(|(board, _)| board.name);
    let write = |board: &Board, status: GuardrailStatus| Next::Write { guardrail: board.name.to_owned(), status };

    let blocked =
        boards.iter().find(|(board, status)| !holds(status, &ticket.uid) && ahead(status, ticket) >= free(board, status));
    // Who need not wait does not queue.
    let unqueued = |status: &GuardrailStatus| !holds(status, &ticket.uid) && !waits(status, &ticket.uid);
    if blocked.is_some()
        && let Some((board, status)) = boards.iter().find(|(_, status)| unqueued(status))
    {
        return match queued(status, ticket) {
            Some(status) => write(board, status),
            None => Next::Wait(reason(board, status, ticket)),
        };
    }
    let held = boards.iter().find(|(_, status)| holds(status, &ticket.uid));
    let missing = boards.iter().find(|(_, status)| !holds(status, &ticket.uid));
    match (blocked, held, missing) {
        (_, _, None) => Next::Taken,
        (None, _, Some((board, status))) => write(board, taken(status, ticket, now)),
        (Some(_), Some((board, status)), _) => {
            Next::GiveBack { guardrail: board.name.to_owned(), status: given_back(status, ticket) }
        }
        (Some((board, status)), None, _) => Next::Wait(reason(board, status, ticket)),
    }
}

/// The status without a run that is finished, or no longer waits. `None`: it is not in it.
pub fn leave(status: &GuardrailStatus, uid: &str) -> Option<GuardrailStatus> {
    sweep(status, &BTreeSet::from([uid.to_owned()]))
}

/// The status without runs that are over. `None`: there are none.
pub fn sweep(status: &GuardrailStatus, over: &BTreeSet<String>) -> Option<GuardrailStatus> {
    let mut swept = status.clone();
    swept.runs.retain(|slot| !over.contains(&slot.uid));
    swept.waiting.retain(|queued| !over.contains(&queued.uid));
    let changed = swept.runs.len() != status.runs.len() || swept.waiting.len() != status.waiting.len();
    changed.then(|| counted(swept))
}

fn holds(status: &GuardrailStatus, uid: &str) -> bool {
    status.runs.iter().any(|slot| slot.uid == uid)
}

fn waits(status: &GuardrailStatus, uid: &str) -> bool {
    status.waiting.iter().any(|queued| queued.uid == uid)
}

fn free(board: &Board, status: &GuardrailStatus) -> usize {
    board.limit.saturating_sub(status.runs.len())
}

/// Those who wait longer. Of two that began in the same moment, the smaller uid.
fn ahead(status: &GuardrailStatus, ticket: &Ticket) -> usize {
    let own = (ticket.since, ticket.uid.as_str());
    status.waiting.iter().filter(|queued| (queued.since, queued.uid.as_str()) < own).count()
}

fn reason(board: &Board, status: &GuardrailStatus, ticket: &Ticket) -> Waits {
    Waits {
        guardrail: board.name.to_owned(),
        limit: board.limit,
        at_work: status.runs.iter().map(|slot| (format!("{}/{}", slot.namespace, slot.run), slot.taken)).collect(),
        ahead: ahead(status, ticket),
        since: ticket.since,
    }
}

/// `None`: the queue is full.
fn queued(status: &GuardrailStatus, ticket: &Ticket) -> Option<GuardrailStatus> {
    if status.waiting.len() >= limits::QUEUE as usize {
        return None;
    }
    let Ticket { namespace, run, uid, since } = ticket.clone();
    let mut status = status.clone();
    status.waiting.push(Queued { namespace, run, uid, since });
    status.waiting.sort_by(|a, b| (a.since, &a.uid).cmp(&(b.since, &b.uid)));
    Some(counted(status))
}

fn taken(status: &GuardrailStatus, ticket: &Ticket, now: Timestamp) -> GuardrailStatus {
    let Ticket { namespace, run, uid, since } = ticket.clone();
    let mut status = status.clone();
    status.waiting.retain(|queued| queued.uid != uid);
    status.runs.push(Slot { namespace, run, uid, since, taken: now });
    counted(status)
}

/// Into the queue, to its old place. The queue may grow beyond its length by as many as there are slots: no
/// place is lost.
fn given_back(status: &GuardrailStatus, ticket: &Ticket) -> GuardrailStatus {
    let Ticket { namespace, run, uid, since } = ticket.clone();
    let mut status = status.clone();
    status.runs.retain(|slot| slot.uid != uid);
    status.waiting.retain(|queued| queued.uid != uid);
    status.waiting.push(Queued { namespace, run, uid, since });
    status.waiting.sort_by(|a, b| (a.since, &a.uid).cmp(&(b.since, &b.uid)));
    counted(status)
}

/// With the columns of `kubectl get guardrails`.
fn counted(mut status: GuardrailStatus) -> GuardrailStatus {
    status.in_progress = i32::try_from(status.runs.len()).unwrap_or(i32::MAX);
    status.waiting_runs = i32::try_from(status.waiting.len()).unwrap_or(i32::MAX);
    status
}
