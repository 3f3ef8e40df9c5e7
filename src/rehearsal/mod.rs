//! The world pretended: a run unfolds over a small model of a cluster, in virtual time, with the same engine
//! and the same turns as in production. What users rehearse before a game day, and what the crash tests break
//! on purpose.
//!
//! It never speaks to a cluster, reads a clock or sleeps. The same file, seed and misfortunes give the same
//! run, to the millisecond.

mod build;
mod check;
mod cluster;
mod dice;
mod drive;
mod misfortune;
mod sampler;
pub mod scenario;
mod stage;
mod world;

use std::cell::RefCell;
use std::rc::Rc;

use jiff::Timestamp;

use crate::api::{Duration, Entry, GameDay, GameDayRun, GameDayRunSpec, GameDayRunStatus, GameDaySpec, People, Probe};
use crate::engine::{Run, RunId, limits};

use cluster::Cluster;
pub use misfortune::{Misfortune, Planned};
use sampler::Blind;
use stage::{Stage, Tale};

/// How to rehearse.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the pretended cluster draws from: latencies, names, places. Also the seed of a game day that names none.
    pub seed: u64,
    /// The virtual time at which the run is created.
    pub start: Timestamp,
    /// Draws crashes, conflicts, lost replies and stale reads from the seed.
    pub misfortune: bool,
    /// These befall the run as well.
    pub planned: Vec<Planned>,
}

impl Default for Options {
    fn default() -> Self {
        // A Tuesday morning, so that a rehearsal prints the same every day.
        Options {
            seed: 1,
            start: Timestamp::from_second(1_767_693_600).expect("a time in 2026"),
            misfortune: false,
            planned: Vec::new(),
        }
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
    let script = build::script(others)?;
    let seed = script.seed.unwrap_or(options.seed);
    let mut cluster = Cluster::new(options.start, seed);
    let spec = run_spec(gameday, seed);
    let invented = build::build(&mut cluster, &spec.game_day, others, &script)?;
    let namespace = gameday.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let name = format!("{}-rehearsal", spec.game_day_name);
    let id = RunId { namespace: namespace.clone(), name: name.clone(), uid: "rehearsal".to_owned() };
    let run = Run::new(id, 1, spec.clone(), GameDayRunStatus::default());

    let mut planned = [script.misfortunes, options.planned.clone()].concat();
    if options.misfortune {
        planned.extend(drawn(&cluster, &spec.game_day, seed));
    }
    let limit = longest(&spec.game_day).saturating_add(delays(&planned));
    let mut stage = Stage::new(cluster, run, planned, seed);
    stage.denied = script.deny;
    stage.blind = script
        .blind
        .iter()
        .map(|blind| Blind {
            probe: blind.probe.clone(),
            from: options.start + blind.from.as_signed(),
            until: options.start + blind.until.as_signed(),
        })
        .collect();

    let start = options.start;
    let stage = Rc::new(RefCell::new(stage));
    let simulated = drive::drive(&stage, limit, &mut |stage| {
        for told in stage.take_told() {
            let event = match &told.what {
                Tale::Entry(entry) => Event::Entry(entry),
                Tale::Misfortune(words) => Event::Misfortune(words),
            };
            on_moment(&Moment { since: Duration::between(start, told.at), event, status: &told.status });
        }
    });

    let stage = stage.borrow();
    let mut run = GameDayRun::new(&name, spec);
    run.metadata.namespace = Some(namespace);
    run.metadata.uid = Some("rehearsal".to_owned());
    run.status = Some(stage.last.status.clone());
    Ok(Rehearsed {
        run,
        simulated,
        turns: stage.turns,
        calls: stage.calls,
        invented,
        violations: stage.witness.violations.clone(),
    })
}

fn run_spec(gameday: &GameDay, seed: u64) -> GameDayRunSpec {
    let mut game_day = gameday.spec.clone();
    game_day.seed = game_day.seed.or(i64::try_from(seed).ok());
    let game_day_name = gameday.metadata.name.clone().unwrap_or_else(|| "gameday".to_owned());
    GameDayRunSpec { game_day_name, scheduled_for: None, game_day, stop: None, people: People::default(), bound: None }
}

/// Misfortunes over the time that the run probably takes.
fn drawn(cluster: &Cluster, spec: &GameDaySpec, seed: u64) -> Vec<Planned> {
    let workloads: Vec<String> = cluster.workloads.keys().map(|of| of.name.clone()).collect();
    let nodes: Vec<String> = cluster.nodes.keys().cloned().collect();
    let length = spec.experiments.iter().fold(Duration::ZERO, |sum, experiment| {
        sum.saturating_add(spec.baseline).saturating_add(experiment.hold).saturating_add(Duration::from_secs(5))
    });
    misfortune::draw(&mut dice::Dice::new(seed ^ 0xbad), length, &workloads, &nodes)
}

/// A run that is not over after this long will never be: every phase of every experiment at its limit.
fn longest(spec: &GameDaySpec) -> Duration {
    let patience = spec.steady_state.iter().map(Probe::patience).max().unwrap_or(Duration::ZERO);
    let each = [
        spec.baseline.saturating_mul(2),
        patience.saturating_mul(3),
        limits::ARMING,
        limits::REVERTING,
        spec.recovery,
        Duration::from_secs(5),
    ];
    let each = each.into_iter().fold(Duration::ZERO, Duration::saturating_add);
    spec.experiments
        .iter()
        .fold(Duration::from_secs(30), |sum, experiment| sum.saturating_add(each).saturating_add(experiment.hold))
}

/// What misfortunes may add: a lost operator is replaced in seconds, a call is given up after one.
fn delays(planned: &[Planned]) -> Duration {
    planned.iter().fold(Duration::ZERO, |sum, planned| {
        let own = match planned.what {
            Misfortune::Outage(length) | Misfortune::Stale(length) => length,
            _ => Duration::ZERO,
        };
        let at =
            if matches!(planned.what, Misfortune::ReleaseCord) { planned.at.unwrap_or(Duration::ZERO) } else { Duration::ZERO };
        sum.saturating_add(own).saturating_add(at).saturating_add(Duration::from_secs(10))
    })
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Violation { since, promise, text } = self;
        write!(f, "{promise} after {since}: {text}")
    }
}
