use clap::{Args, ValueEnum};

use crate::api::GameDayRun;
use crate::report;

use super::connect::{Connection, find_run};
use super::{Cluster, Exit, Failure, Output, run, source};

/// Tell what happened in a run, and how that is known
#[derive(Debug, Args)]
pub struct Report {
    /// A run in the cluster, or a file with one (kubectl get gdr NAME -o yaml)
    #[arg(value_name = "RUN|FILE")]
    what: String,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Form {
    Text,
    Markdown,
    Json,
}

impl Form {
    pub fn of(self, run: &GameDayRun) -> String {
        match self {
            Form::Text => report::text(run),
            Form::Markdown => report::markdown(run),
            Form::Json => report::json(run),
        }
    }
}

impl Report {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let runs = if run::is_file(&self.what) {
            source::read_runs(&self.what)?
        } else {
            let connection = Connection::open(cluster).await?;
            vec![find_run(&connection.client, connection.namespace(None), &self.what).await?]
        };
        for run in &runs {
            output.text(&self.output.of(run))?;
        }
        Ok(Exit::Passed)
    }
}
