use std::io::IsTerminal;
use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::operator::{self, Options};

use super::{Cluster, Exit, Failure};

/// Enough that a probe's sample is on time while a report is written; more would only idle.
const THREADS: usize = 2;

/// Be the operator: what the manifests start in a pod
#[derive(Debug, Args)]
pub struct Operator {
    /// Who this is, in the Lease
    #[arg(long, env = "POD_NAME", hide_env_values = true, value_name = "NAME", default_value = "gameday")]
    identity: String,
    /// Where agents come from
    #[arg(long, value_enum, default_value_t)]
    agents: Agents,
    /// The image that agents are started from; without, faults that nodes hold are refused
    #[arg(long, env = "AGENT_IMAGE", value_name = "IMAGE")]
    agent_image: Option<String>,
    /// Where /metrics, /healthz and /readyz are answered
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Agents {
    /// The operator makes them on the nodes that a run needs, and removes them when they are idle
    #[default]
    OnDemand,
    /// A DaemonSet has one on each node, always
    Standing,
}

impl From<Agents> for operator::Source {
    fn from(agents: Agents) -> Self {
        match agents {
            Agents::OnDemand => operator::Source::OnDemand,
            Agents::Standing => operator::Source::Standing,
        }
    }
}

impl Operator {
    pub fn run(self, cluster: Cluster) -> Result<Exit, Failure> {
        log()?;
        let namespace = cluster.namespace.or_else(|| std::env::var("POD_NAMESPACE").ok()).unwrap_or_else(|| "gameday".to_owned());
        let options = Options {
            kubeconfig: cluster.kubeconfig,
            namespace,
            identity: self.identity,
            agents: self.agents.into(),
            agent_image: self.agent_image,
            health: self.listen,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .map_err(|error| Failure::alone(format!("starting: {error}")))?;
        match runtime.block_on(operator::run(options)) {
            Ok(()) => Ok(Exit::Passed),
            Err(error) => Err(Failure::new(Exit::Alone, error)),
        }
    }
}

/// For people on a terminal, otherwise JSON, a line each; `RUST_LOG` chooses.
pub fn log() -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() { log.try_init() } else { log.json().flatten_event(true).try_init() };
    started.map_err(|error| Failure::alone(format!("starting the log: {error}")))
}
