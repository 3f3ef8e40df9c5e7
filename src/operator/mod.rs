//! The operator: leads by a Lease, turns watches into turns, follows schedules, and sweeps up.
//!
//! While it stands by it watches one object. While it leads it watches runs, game days and cords; what a single
//! run needs is watched for that run. Nothing listens but health and metrics.

mod agents;
mod alerts;
mod desk;
mod events;
mod gameday;
mod guardrails;
mod health;
mod orders;
mod runs;

pub use agents::{Source, daemon_set, namespace as agents_namespace};

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api::{Cord, GameDay, GameDayRun, Guardrail, Injection};
use crate::cluster::{Change, client, follow, leader, sweep};

use agents::Agents;
use desk::Desk;
use events::Events;
use health::Metrics;

/// A sweep finds nothing unless something went wrong, and something in force may not wait longer for it.
const SWEEP: Duration = Duration::from_secs(60);
/// Objects in one page of a list: a run with its record may have a hundred kilobytes.
const PAGE: u32 = 50;
/// A graceful stop: the runs' last words, then the lease. Kubernetes gives thirty seconds, the next leader waits.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How this operator is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Absent: the environment's, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Where the Lease is.
    pub namespace: String,
    /// Who this is: the pod's name.
    pub identity: String,
    pub agents: Source,
    /// The image that agents are started from; absent: none are, and faults that nodes hold are refused.
    pub agent_image: Option<String>,
    /// Where health and metrics are answered.
    pub health: SocketAddr,
}

/// Why an operator ended that was not asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    NoConnection(#[from] client::NoConnection),
    #[error("health and metrics cannot be answered on {address}: {source}")]
    Health { address: SocketAddr, source: std::io::Error },
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    #[error("it does not lead any more")]
    Lost(#[from] leader::Lost),
    #[error("a task that should go on for ever has ended: {0}")]
    Ended(&'static str),
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot begin, or lost the lease: then the process must end, and another be started.
pub async fn run(options: Options) -> Result<(), Error> {
    let asked_to_stop = signals().map_err(Error::Signals)?;
    let mut asked_to_stop = std::pin::pin!(asked_to_stop);
    let metrics = Arc::new(Metrics::new());
    let address = options.health;
    let _health = health::serve(address, Arc::clone(&metrics)).await.map_err(|source| Error::Health { address, source })?;
    let client = client::connect(options.kubeconfig.as_deref()).await?;
    // A restarted process is another one, and must wait for the lease as any other.
    let identity = format!("{}_{:08x}", options.identity, draw() >> 32);
    tracing::info!(identity, namespace = options.namespace, "standing by");
    let mut held = tokio::select! {
        held = leader::lead(&client, &options.namespace, &identity, || metrics.set_ready(true)) => held,
        () = &mut asked_to_stop => return Ok(()),
    };
    tracing::info!(identity, "leading");
    metrics.leader.set(1);
    let (stop, stopping) = watch::channel(false);
    let (busy, mut idle) = mpsc::channel(1);
    let events = Events::start(&client, &identity);
    let agents = Agents::new(&client, &options.namespace, options.agents, options.agent_image.clone());
    let desk = Arc::new(Desk::new(client, agents, held.leader.clone(), Arc::clone(&metrics), events, stopping, busy));
    let mut duties = start(&desk);
    let ended = tokio::select! {
        lost = held.keep() => Some(Error::Lost(lost)),
        ended = duties.join_next() => Some(Error::Ended(ended.and_then(Result::ok).unwrap_or("a duty"))),
        () = &mut asked_to_stop => None,
    };
    duties.shutdown().await;
    desk::lock(&desk.busy).take();
    stop.send_replace(true);
    metrics.leader.set(0);
    if let Some(error) = ended {
        return Err(error);
    }
    if tokio::time::timeout(LAST_WORDS, idle.recv()).await.is_err() {
        tracing::warn!("some runs did not get to write their last words");
    }
    held.release().await;
    tracing::info!("stopped");
    Ok(())
}

fn signals() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What a leader does, each for ever.
fn start(desk: &Arc<Desk>) -> JoinSet<&'static str> {
    let config = || watcher::Config::default().page_size(PAGE);
    let mut duties = JoinSet::new();
    let (cords_read, mut after_cords) = watch::channel(false);
    let (runs_read, mut after_runs) = watch::channel(false);

    let cords: Api<DeserializeGuard<Cord>> = Api::all(desk.client.clone());
    let at = Arc::clone(desk);
    duties.spawn(async move {
        follow(cords, config(), "cords", |change| {
            let whole = matches!(change, Change::Only(_));
            at.see_cord(change);
            if whole {
                cords_read.send_replace(true);
            }
        })
        .await;
        "cords"
    });

    let runs: Api<DeserializeGuard<GameDayRun>> = Api::all(desk.client.clone());
    let at = Arc::clone(desk);
    duties.spawn(async move {
        // A run must not begin before it is known whether a cord is pulled.
        let _ = after_cords.wait_for(|read| *read).await;
        follow(runs, config(), "runs", |change| {
            let whole = matches!(change, Change::Only(_));
            at.see_run(change);
            if whole {
                runs_read.send_replace(true);
            }
        })
        .await;
        "runs"
    });

    let game_days: Api<DeserializeGuard<GameDay>> = Api::all(desk.client.clone());
    let at = Arc::clone(desk);
    duties.spawn(async move {
        follow(game_days, config(), "gamedays", |change| at.see_game_day(change)).await;
        "gamedays"
    });
    let at = Arc::clone(desk);
    duties.spawn(async move {
        // What has run is known by the runs.
        let _ = after_runs.wait_for(|read| *read).await;
        gameday::tend(&at).await;
        "game days"
    });

    let injections: Api<DeserializeGuard<Injection>> = Api::namespaced(desk.client.clone(), &desk.agents.namespace);
    let at = Arc::clone(desk);
    duties.spawn(async move {
        follow(injections, config(), "injections", |change| at.see_injection(change)).await;
        "injections"
    });
    let at = Arc::clone(desk);
    duties.spawn(async move {
        agents::tend(&at).await;
        "agents"
    });
    let at = Arc::clone(desk);
    duties.spawn(async move {
        orders::tend(&at).await;
        "orders"
    });

    let guardrails: Api<DeserializeGuard<Guardrail>> = Api::all(desk.client.clone());
    let at = Arc::clone(desk);
    duties.spawn(async move {
        follow(guardrails, config(), "guardrails", |change| at.see_guardrail(change)).await;
        "guardrails"
    });
    let at = Arc::clone(desk);
    duties.spawn(async move {
        alerts::tend(&at).await;
        "alerts"
    });
    let at = Arc::clone(desk);
    duties.spawn(async move {
        guardrails::tend(&at).await;
        "guardrails' conditions"
    });

    let at = Arc::clone(desk);
    duties.spawn(async move {
        loop {
            if let Err(error) = sweep::sweep(&at.client, &at.agents.namespace, &at.leader).await {
                tracing::warn!(%error, "the sweep was not finished; the next one goes on");
            }
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = at.litter.notified() => {}
            }
        }
    });
    duties
}

/// A number nobody could have guessed: the standard library keys its hash maps from the system's randomness.
fn draw() -> u64 {
    RandomState::new().build_hasher().finish()
}
