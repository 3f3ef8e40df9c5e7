use clap::Args;

use super::connect::Connection;
use super::follow::{Interrupt, follow};
use super::{Cluster, Exit, Failure, Output};

/// Follow a run to its end; Ctrl-C leaves it alone
#[derive(Debug, Args)]
pub struct Watch {
    /// Its name
    run: String,
}

impl Watch {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let connection = Connection::open(cluster).await?;
        let namespace = connection.namespace(None).to_owned();
        follow(&connection, &namespace, &self.run, Interrupt::Leaves, output).await
    }
}
