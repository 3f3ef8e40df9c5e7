//! The world pretended: a run unfolds over a small model of a cluster, in virtual time, with the same engine
//! and the same turns as in production. What users rehearse before a game day, and what the crash tests break
//! on purpose.
//!
//! It never speaks to a cluster, reads a clock or sleeps. The same file, seed and misfortunes give the same
//! run, to the millisecond.

use jiff::Timestamp;

use crate::api::{Duration, Entry, GameDay, GameDayRun, GameDayRunStatus};

/// How to rehearse.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the pretended cluster draws from: latencies, names, places. Also the seed of a game day that names none.
    pub seed: u64,
    /// The virtual time at which the run is created.
    pub start: Timestamp,
    /// Draws crashes, conflicts, lost replies and stale reads from the seed.
    pub misfortune: bool,
}

impl Default for Options {
    fn default() -> Self {
        // A Tuesday morning, so that a rehearsal prints the same every day.
        Options { seed: 1, start: Timestamp::from_second(1_767_693_600).expect("a time in 2026"), misfortune: false }
    }
}

/// A moment of the rehearsal, told as it happens.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Virtual time since the run was created.
    pub since: Duration,
    pub event: Event<'a>,
    /// The run as recorded at this moment.
    pub status: &'a GameDayRunStatus,
}

#[derive(Debug)]
pub enum Event<'a> {
    /// An entry was recorded.
    Entry(&'a Entry),
    /// Something befell the cluster or the operator: "the operator is killed".
    Misfortune(&'a str),
}

/// A promise that the run broke. There should be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub since: Duration,
    /// Which promise: "P1".
    pub promise: &'static str,
    pub text: String,
}

/// A rehearsed run.
#[derive(Clone, Debug)]
pub struct Rehearsed {
    /// As it would be on a cluster, with its full status.
    pub run: GameDayRun,
    /// Virtual time from the run's creation to its end.
    pub simulated: Duration,
    pub turns: u64,
    /// Calls to the world: the places where a misfortune can be put.
    pub calls: u64,
    /// What the file did not say and was made up, one sentence each.
    pub invented: Vec<String>,
    pub violations: Vec<Violation>,
}

/// Rehearses one run of a game day. `others` are the other documents of its file: Deployments, StatefulSets,
/// PodDisruptionBudgets, Services and Nodes make the cluster, and a `Rehearsal` document says how it behaves.
/// What is missing is invented.
///
/// A game day that cannot be admitted gives a finished run that says why.
///
/// # Errors
/// A document that cannot be understood, in a sentence.
pub fn rehearse(
    gameday: &GameDay,
    others: &[serde_json::Value],
    options: &Options,
    on_moment: &mut dyn FnMut(&Moment<'_>),
) -> Result<Rehearsed, String> {
    let _ = (gameday, others, options, on_moment);
    Err("the rehearsal is not built yet".to_owned())
}
