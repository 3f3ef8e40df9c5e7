use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;

use crate::api::{Duration, GameDayRun};
use crate::report;

use super::connect::{Connection, ask};
use super::{Cluster, Exit, Failure, Output, install};

/// One page of a list: bounds what the API server must hold in memory for us.
const PAGE: u32 = 500;

/// List runs, the newest last
#[derive(Debug, Args)]
pub struct Runs {
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How they are written
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    Table,
    Name,
    Json,
    Yaml,
}

impl Runs {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let connection = Connection::open(cluster).await?;
        let api: Api<GameDayRun> = if self.all_namespaces {
            Api::all(connection.client.clone())
        } else {
            Api::namespaced(connection.client.clone(), connection.namespace(None))
        };
        let mut runs = list(&api).await?;
        runs.sort_by(|a, b| {
            (&a.metadata.creation_timestamp, &a.metadata.name).cmp(&(&b.metadata.creation_timestamp, &b.metadata.name))
        });
        match self.output {
            Form::Table if runs.is_empty() => output.line("no runs")?,
            Form::Table => {
                for line in table(&runs, self.all_namespaces, Timestamp::now()) {
                    output.line(line)?;
                }
            }
            Form::Name => {
                for run in &runs {
                    output.line(run.metadata.name.as_deref().unwrap_or_default())?;
                }
            }
            Form::Json => output.line(serde_json::to_string_pretty(&runs).expect("a run is plain data"))?,
            Form::Yaml => {
                for run in &runs {
                    output.text(&format!("---\n{}", install::yaml(run)))?;
                }
            }
        }
        Ok(Exit::Passed)
    }
}

async fn list(api: &Api<GameDayRun>) -> Result<Vec<GameDayRun>, Failure> {
    let mut runs = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let answer = ask(api.list(&page)).await?;
        runs.extend(answer.items);
        match answer.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(runs),
        }
    }
}

fn table(runs: &[GameDayRun], with_namespace: bool, now: Timestamp) -> Vec<String> {
    let header = ["NAMESPACE", "NAME", "PHASE", "VERDICT", "EXPERIMENT", "TARGETS", "AGE", "WHY"].map(str::to_owned).to_vec();
    let rows = runs.iter().map(|run| {
        let status = run.status.clone().unwrap_or_default();
        let age = run.metadata.creation_timestamp.as_ref().map(|created| Duration::between(created.0, now).as_millis() / 1_000);
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            run.metadata.namespace.clone().unwrap_or_default(),
            run.metadata.name.clone().unwrap_or_default(),
            format!("{:?}", status.phase),
            or(status.verdict.map(|verdict| verdict.to_string())),
            or(status.experiment),
            or(status.targets),
            or(age.map(age_in_words)),
            or(status.why),
        ]
    });
    let rows: Vec<Vec<String>> =
        std::iter::once(header).chain(rows).map(|row| row.into_iter().skip(usize::from(!with_namespace)).collect()).collect();
    report::table(&rows)
}

/// As kubectl writes it: the largest unit that is worth knowing.
fn age_in_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
