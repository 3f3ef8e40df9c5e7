use clap::Args;
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api::{Cord, CordSpec, GameDayRun, Stop as StopAsked};

use super::connect::{Connection, ask, find_run};
use super::{Cluster, Exit, Failure, Output};

/// Stop a run, or pull the cord: everything in force is reverted
#[derive(Debug, Args)]
pub struct Stop {
    /// The run's name
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    run: Option<String>,
    /// Pull the cord: stop all runs, and let none start until it is released; with -n only in that namespace
    #[arg(long)]
    all: bool,
    /// Why; it is written into every run that is stopped
    #[arg(long, default_value = "stopped at the command line")]
    reason: String,
}

impl Stop {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let connection = Connection::open(cluster).await?;
        match self.run {
            Some(run) => {
                let namespace = connection.namespace(None).to_owned();
                let stopped = stop_run(&connection, &namespace, &run, &self.reason).await?;
                output.line(match stopped {
                    Stopped::Now => {
                        format!("{run} is stopped and reverts what it has in force: gameday -n {namespace} watch {run}")
                    }
                    Stopped::Before(reason) => format!("{run} was stopped already: {reason}"),
                    Stopped::Over => format!("{run} is finished already"),
                })?;
            }
            None => {
                let name = pull(&connection, self.reason, cluster.namespace.clone()).await?;
                let whose = cluster.namespace.as_ref().map_or("everywhere".to_owned(), |one| format!("in namespace {one}"));
                output.line(format!("cord {name} is pulled: nothing is injected {whose} until gameday release {name}"))?;
            }
        }
        Ok(Exit::Passed)
    }
}

/// What asking for the end came to.
pub enum Stopped {
    Now,
    Before(String),
    Over,
}

/// Asks for a run's end.
pub async fn stop_run(connection: &Connection, namespace: &str, name: &str, reason: &str) -> Result<Stopped, Failure> {
    let runs: Api<GameDayRun> = Api::namespaced(connection.client.clone(), namespace);
    let run = find_run(&connection.client, namespace, name).await?;
    if run.is_finished() {
        return Ok(Stopped::Over);
    }
    // Whoever stopped it first gave the reason.
    if let Some(stop) = run.spec.stop {
        return Ok(Stopped::Before(stop.reason));
    }
    let stop = StopAsked { reason: reason.to_owned(), by: user() };
    let patch = Patch::Merge(json!({"spec": {"stop": stop}}));
    ask(runs.patch(name, &PatchParams::default(), &patch)).await?;
    Ok(Stopped::Now)
}

async fn pull(connection: &Connection, reason: String, namespace: Option<String>) -> Result<String, Failure> {
    let who = user().unwrap_or_else(|| "cord".to_owned());
    let name = format!("{who}-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S-%3f"));
    let cord = Cord::new(&name, CordSpec { reason, by: user(), namespaces: namespace.into_iter().collect() });
    let cords: Api<Cord> = Api::all(connection.client.clone());
    ask(cords.create(&PostParams::default(), &cord)).await?;
    Ok(name)
}

/// Who this is, as far as the shell knows, in letters that a name may have.
fn user() -> Option<String> {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default().to_lowercase();
    let letters: String = user.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).take(40).collect();
    let letters = letters.trim_matches('-');
    (!letters.is_empty()).then(|| letters.to_owned())
}
