//! Following a run to its end: a live view on a terminal, plain lines elsewhere, and the report at the end.

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{ConditionStatus, GameDayRun, RunPhase, Verdict};
use crate::report;

use super::connect::Connection;
use super::frame::{Told, frame};
use super::{Exit, Failure, Output, stop};

/// An operator takes up a run in milliseconds, a new leader within the Lease's half minute, which the operator
/// says in its logs; a person has looked elsewhere by then.
const NO_OPERATOR: Duration = Duration::from_secs(10);
/// So long a run may be followed without an answer: the run itself goes on, or is reverted, without us.
const NO_ANSWER: Duration = Duration::from_secs(60);
/// The time left is shown in seconds.
const REDRAW: Duration = Duration::from_millis(500);

/// What Ctrl-C means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// The run is ours: stop it, and follow until it is reverted.
    Stops,
    /// The run is another's: leave.
    Leaves,
}

/// Follows until the run is finished, and says how it ended.
///
/// # Errors
/// When the run does not exist, nobody takes it up, or the cluster does not answer for long.
pub async fn follow(
    connection: &Connection,
    namespace: &str,
    name: &str,
    interrupt: Interrupt,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let runs: Api<GameDayRun> = Api::namespaced(connection.client.clone(), namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(watcher(runs, config).default_backoff());
    let mut view = View::new();
    let mut run: Option<GameDayRun> = None;
    let mut interrupted = false;
    let (begun, mut answered) = (Instant::now(), Instant::now());
    // One stream for the whole time: a signal between two waits is not lost.
    let mut signals = Signals::new()?;
    let mut tick = tokio::time::interval(REDRAW);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(seen) | watcher::Event::InitApply(seen))) => {
                    answered = Instant::now();
                    view.show(&seen, output)?;
                    if is_finished(&seen) {
                        return end(&seen, &mut view, output);
                    }
                    run = Some(seen);
                }
                Some(Ok(watcher::Event::Delete(_))) => {
                    view.leave(output)?;
                    return Err(Failure::new(Exit::Inconclusive, anyhow::anyhow!("{name} was deleted; the operator reverts what it had in force")));
                }
                Some(Ok(watcher::Event::Init)) => answered = Instant::now(),
                Some(Ok(watcher::Event::InitDone)) => {
                    answered = Instant::now();
                    if run.is_none() {
                        return Err(Failure::invalid(format!("no run {name} in namespace {namespace}")));
                    }
                }
                Some(Err(error)) => {
                    if answered.elapsed() >= NO_ANSWER || run.is_none() {
                        view.leave(output)?;
                        return Err(unanswered(error, run.is_some(), name));
                    }
                }
                None => return Err(Failure::alone("the watch ended")),
            },
            _ = tick.tick() => {
                if let Some(run) = &run {
                    view.redraw(run, output)?;
                    if is_untouched(run) && begun.elapsed() >= NO_OPERATOR {
                        view.leave(output)?;
                        return Err(Failure::alone(format!(
                            "no operator has taken up {name} within {} s: gameday install | kubectl apply -f -\n\
                             The run is left as it is, and starts when an operator comes. Stop it with: gameday -n {namespace} stop {name}",
                            NO_OPERATOR.as_secs(),
                        )));
                    }
                }
            }
            () = signals.next() => {
                let left = format!("{name} goes on without being watched: gameday -n {namespace} watch {name}");
                if interrupt == Interrupt::Leaves || interrupted {
                    view.leave(output)?;
                    return Err(Failure::new(Exit::Inconclusive, anyhow::anyhow!(left)));
                }
                interrupted = true;
                view.note("stopping: reverting what is in force; Ctrl-C again leaves without waiting for it", output)?;
                if let Err(failure) = stop::stop_run(connection, namespace, name, "interrupted at the command line").await {
                    view.leave(output)?;
                    failure.tell();
                    return Err(Failure::alone(format!("{name} could not be stopped: gameday -n {namespace} stop {name}")));
                }
            }
        }
    }
}

/// Ctrl-C, and what ends a cancelled job.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|error| Failure::alone(format!("signals: {error}")));
        Ok(Signals { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn unanswered(error: watcher::Error, followed: bool, name: &str) -> Failure {
    let failure = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Failure::from(error),
        watcher::Error::WatchError(status) => Failure::from(kube::Error::Api(status)),
        watcher::Error::NoResourceVersion => Failure::alone("the cluster gave no resource version"),
    };
    if followed {
        failure.context(format!("{name} is not watched any more; it goes on, or is reverted, without us"))
    } else {
        failure
    }
}

fn is_finished(run: &GameDayRun) -> bool {
    run.status.as_ref().is_some_and(|status| status.phase == RunPhase::Finished)
}

/// No operator has written anything.
fn is_untouched(run: &GameDayRun) -> bool {
    run.status.as_ref().is_none_or(|status| {
        status.phase == RunPhase::Waiting && status.why.is_none() && status.record.is_empty() && status.conditions.is_empty()
    })
}

fn end(run: &GameDayRun, view: &mut View, output: &mut Output) -> Result<Exit, Failure> {
    view.clear(output)?;
    let text = match view {
        View::Live { painted: _ } => report::text(run),
        View::Plain(_) => report::text_after_record(run),
    };
    output.text(&format!("\n{text}"))?;
    Ok(exit(run))
}

/// A finished run's exit code.
pub fn exit(run: &GameDayRun) -> Exit {
    let Some(status) = &run.status else { return Exit::Inconclusive };
    let refused =
        status.conditions.iter().any(|condition| condition.kind == "Admitted" && condition.status == ConditionStatus::False);
    match status.verdict {
        Some(Verdict::Passed) => Exit::Passed,
        Some(Verdict::Failed) => Exit::Failed,
        Some(Verdict::Inconclusive) | None if refused => Exit::Refused,
        Some(Verdict::Inconclusive) | None => Exit::Inconclusive,
    }
}

/// Where the run is shown.
enum View {
    /// Repainted in place; so many lines are on the screen.
    Live {
        painted: usize,
    },
    Plain(Told),
}

impl View {
    fn new() -> Self {
        if io::stdout().is_terminal() { View::Live { painted: 0 } } else { View::Plain(Told::default()) }
    }

    /// The run has changed.
    fn show(&mut self, run: &GameDayRun, output: &mut Output) -> io::Result<()> {
        match self {
            View::Live { .. } => self.redraw(run, output),
            View::Plain(told) => {
                for line in told.news(run) {
                    output.line(line)?;
                }
                output.flush()
            }
        }
    }

    /// Time has passed.
    fn redraw(&mut self, run: &GameDayRun, output: &mut Output) -> io::Result<()> {
        let View::Live { painted } = self else { return Ok(()) };
        let (width, height) = terminal_size::terminal_size().map_or((100, 40), |(width, height)| (width.0, height.0));
        let mut lines = frame(run, Timestamp::now(), usize::from(width));
        // What has scrolled away cannot be painted over.
        lines.truncate(usize::from(height).saturating_sub(1));
        let picture: String = lines.iter().map(|line| format!("{line}\n")).collect();
        output.text(&format!("{}{picture}", up(*painted)))?;
        *painted = lines.len();
        Ok(())
    }

    fn note(&mut self, text: &str, output: &mut Output) -> io::Result<()> {
        self.clear(output)?;
        output.line(text)?;
        output.flush()
    }

    /// Takes the live view away, to make room for the report.
    fn clear(&mut self, output: &mut Output) -> io::Result<()> {
        if let View::Live { painted } = self {
            output.text(&up(*painted))?;
            *painted = 0;
        }
        Ok(())
    }

    /// Leaves the last picture standing.
    fn leave(&mut self, output: &mut Output) -> io::Result<()> {
        if let View::Live { painted } = self {
            *painted = 0;
        }
        output.flush()
    }
}

/// So many lines up, and everything below erased.
fn up(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\r\x1b[J") }
}
