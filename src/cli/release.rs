use clap::Args;
use kube::Api;
use kube::api::{DeleteParams, ListParams};

use crate::api::Cord;

use super::connect::{Connection, ask};
use super::{Cluster, Exit, Failure, Output};

/// Release a cord; without a name the only one there is
#[derive(Debug, Args)]
pub struct Release {
    /// The cord's name
    cord: Option<String>,
    /// All of them, whoever pulled them
    #[arg(long, conflicts_with = "cord")]
    all: bool,
}

impl Release {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let connection = Connection::open(cluster).await?;
        let cords: Api<Cord> = Api::all(connection.client.clone());
        let pulled = ask(cords.list(&ListParams::default())).await?.items;
        let chosen: Vec<&Cord> = match &self.cord {
            Some(name) => pulled.iter().filter(|cord| cord.metadata.name.as_ref() == Some(name)).collect(),
            None => pulled.iter().collect(),
        };
        if chosen.is_empty() {
            return match &self.cord {
                Some(name) => Err(Failure::invalid(format!("no cord {name} is pulled"))),
                None => {
                    output.line("no cord is pulled")?;
                    Ok(Exit::Passed)
                }
            };
        }
        if chosen.len() > 1 && !self.all {
            let list: Vec<String> = chosen.iter().map(|cord| format!("  {}", describe(cord))).collect();
            return Err(Failure::invalid(format!("{} cords are pulled; name one, or --all:\n{}", list.len(), list.join("\n"))));
        }
        for cord in chosen {
            let name = cord.metadata.name.clone().unwrap_or_default();
            ask(cords.delete(&name, &DeleteParams::default())).await?;
            output.line(format!("released {}", describe(cord)))?;
        }
        Ok(Exit::Passed)
    }
}

fn describe(cord: &Cord) -> String {
    let by = cord.spec.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    format!("{}, pulled{by}: {}", cord.metadata.name.as_deref().unwrap_or_default(), cord.spec.reason)
}
