use std::net::IpAddr;

use clap::Args;

use crate::agent::{self, Options};

use super::{Cluster, Exit, Failure, operator};

/// Be the agent of one node: what the operator starts in a pod where a run needs it
#[derive(Debug, Args)]
pub struct Agent {
    /// The node
    #[arg(long, value_name = "NAME")]
    node: String,
    /// Where the operator's Lease is
    #[arg(long, value_name = "NAME", default_value = "gameday")]
    operator_namespace: String,
    /// Who this is: the uid of its pod
    #[arg(long, env = "POD_UID", hide_env_values = true, value_name = "UID", default_value = "agent")]
    identity: String,
    /// Faults that it is made for, of which it reports what this node cannot hold
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    faults: Vec<String>,
    /// Addresses of the node, from which the kubelet probes: spared by network faults
    #[arg(long, env = "NODE_ADDRESSES", hide_env_values = true, value_name = "ADDRESS", value_delimiter = ',')]
    node_addresses: Vec<IpAddr>,
}

impl Agent {
    pub fn run(self, cluster: Cluster) -> Result<Exit, Failure> {
        operator::log()?;
        let namespace = cluster.namespace.or_else(|| std::env::var("POD_NAMESPACE").ok());
        let namespace = namespace.unwrap_or_else(|| format!("{}-agents", self.operator_namespace));
        let options = Options {
            kubeconfig: cluster.kubeconfig,
            node: self.node,
            namespace,
            operator_namespace: self.operator_namespace,
            identity: self.identity,
            faults: self.faults,
            node_addresses: self.node_addresses,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::alone(format!("starting: {error}")))?;
        match runtime.block_on(agent::run(options)) {
            Ok(()) => Ok(Exit::Passed),
            Err(error) => Err(Failure::new(Exit::Alone, error)),
        }
    }
}
