//! What people say to a run: an approval, an answer to its gate, a note. Each is one more entry of a list in the run,
//! and plain kubectl can write it as well.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api::{Approval, Duration, GameDayRun, GateAnswer, Note as Noted, People};

use crate::cluster::client;

use super::connect::{Connection, ask, find_run};
use super::{Cluster, Exit, Failure, Output};

/// Say yes, by name, to a run that a guardrail wants approved
#[derive(Debug, Args)]
pub struct Approve {
    /// The run's name
    run: String,
    /// The approval holds so long; the guardrail may shorten it
    #[arg(long = "for", value_name = "LENGTH", default_value = "8h")]
    length: Duration,
    /// The right in which it is given, as the guardrail names it
    #[arg(long, default_value = "approve")]
    verb: String,
    /// Written beside it
    #[arg(long)]
    note: Option<String>,
}

/// Answer a run that asks before an experiment; silence is no
#[derive(Debug, Args)]
pub struct Answer {
    /// The run's name
    run: String,
    answer: YesNo,
    /// The experiment that asks; needed where several do
    #[arg(long)]
    experiment: Option<String>,
    /// Written beside it
    #[arg(long)]
    note: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum YesNo {
    Yes,
    No,
}

/// Write a note into a run's record
#[derive(Debug, Args)]
pub struct Note {
    /// The run's name
    run: String,
    text: String,
}

impl Approve {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let Approve { run, length, verb, note } = self;
        let at = Timestamp::now();
        let until = at + length.as_signed();
        let by = say(cluster, &run, |people, by, _| {
            people.approvals.push(Approval { by: by.to_owned(), verb: verb.clone(), at, until, note: note.clone() });
            Ok(())
        })
        .await?;
        output.line(format!("{run} is approved by {by} until {until:.0}"))?;
        Ok(Exit::Passed)
    }
}

impl Answer {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let Answer { run, answer, experiment, note } = self;
        let yes = matches!(answer, YesNo::Yes);
        let mut answered = String::new();
        let by = say(cluster, &run, |people, by, object| {
            answered = match &experiment {
                Some(named) if object.spec.game_day.experiments.iter().any(|one| one.name == *named) => named.clone(),
                Some(named) => return Err(Failure::alone(format!("{run} has no experiment {named}"))),
                None => asking(object)?,
            };
            people.answers.push(GateAnswer {
                experiment: answered.clone(),
                yes,
                by: by.to_owned(),
                at: Timestamp::now(),
                note: note.clone(),
            });
            Ok(())
        })
        .await?;
        output.line(format!("{by} said {} to {answered} of {run}", if yes { "yes" } else { "no" }))?;
        Ok(Exit::Passed)
    }
}

impl Note {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let Note { run, text } = self;
        say(cluster, &run, |people, by, _| {
            people.notes.push(Noted { by: by.to_owned(), at: Timestamp::now(), text: text.clone() });
            Ok(())
        })
        .await?;
        output.line(format!("noted in {run}"))?;
        Ok(Exit::Passed)
    }
}

/// The experiment whose gate is open for an answer.
fn asking(run: &GameDayRun) -> Result<String, Failure> {
    let statuses = run.status.iter().flat_map(|status| &status.experiments);
    let asking: Vec<&str> = statuses
        .filter(|status| status.asked.is_some() && status.gate.is_none() && status.verdict.is_none())
        .map(|status| status.name.as_str())
        .collect();
    match asking.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(Failure::alone("no experiment of this run asks anything just now; name one with --experiment")),
        several => Err(Failure::alone(format!("several experiments ask: {}; name one with --experiment", several.join(", ")))),
    }
}

/// Adds to what people have said, by the name that the cluster knows this user by.
async fn say(
    cluster: &Cluster,
    name: &str,
    mut add: impl FnMut(&mut People, &str, &GameDayRun) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let connection = Connection::open(cluster).await?;
    let client = &connection.client;
    let review = ask(Api::all(client.clone()).create(&PostParams::default(), &SelfSubjectReview::default())).await?;
    let by = review.status.and_then(|status| status.user_info?.username);
    let by = by.ok_or_else(|| Failure::alone("the API server does not say who you are"))?;
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), connection.namespace(None));
    for _ in 0..TRIES {
        let run = find_run(client, connection.namespace(None), name).await?;
        if run.is_finished() {
            return Err(Failure::alone(format!("{name} is finished already")));
        }
        let mut people = run.spec.people.clone();
        add(&mut people, &by, &run)?;
        // With the version: what somebody else says in the same moment must not be lost.
        let change = json!({"metadata": {"resourceVersion": run.metadata.resource_version}, "spec": {"people": people}});
        match client::ask(runs.patch(name, &PatchParams::default(), &Patch::Merge(change))).await {
            Ok(_) => return Ok(by),
            // The operator writes into the same object.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(Failure::alone(error.in_words())),
        }
    }
    Err(Failure::alone(format!("{name} is being written again and again; try once more")))
}

/// A run under way is written a few times a second at most.
const TRIES: usize = 8;
