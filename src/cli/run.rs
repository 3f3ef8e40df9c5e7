use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;

use clap::Args;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Resource};

use crate::api::{Bound, GameDay, GameDayRun, GameDayRunSpec, LABEL_GAMEDAY, People};

use super::connect::{Connection, ask};
use super::follow::{Interrupt, follow};
use super::{Cluster, Exit, Failure, Output, source};

/// Start a run of a game day, and follow it; Ctrl-C stops the run
#[derive(Debug, Args)]
pub struct Run {
    /// A YAML file with one game day, or the name of one in the cluster
    #[arg(value_name = "FILE|NAME")]
    what: String,
    /// What `gameday plan --save` wrote: the run is refused where it is not so any more
    #[arg(long, value_name = "FILE")]
    plan: Option<std::path::PathBuf>,
}

impl Run {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let (connection, game_day, known) = find(&self.what, cluster).await?;
        let bound = self.plan.as_ref().map(|path| saved(path)).transpose()?;
        start(&connection, &game_day, known.as_ref(), bound, output).await
    }
}

/// A plan as it was saved.
fn saved(path: &std::path::Path) -> Result<Bound, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::invalid(format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text).map_err(|error| Failure::invalid(format!("{}: not a saved plan: {error}", path.display())))
}

/// Starts a run, and follows it.
pub async fn start(
    connection: &Connection,
    game_day: &GameDay,
    known: Option<&GameDay>,
    bound: Option<Bound>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let name = game_day.metadata.name.clone().unwrap_or_default();
    let namespace = connection.namespace(game_day.metadata.namespace.as_deref()).to_owned();
    let mut run = new_run(&name, game_day, known);
    run.spec.bound = bound;
    let runs: Api<GameDayRun> = Api::namespaced(connection.client.clone(), &namespace);
    let run = ask(runs.create(&PostParams::default(), &run)).await?;
    let run_name = run.metadata.name.unwrap_or_default();
    output.line(format!("started {namespace}/{run_name}; seed {}", run.spec.game_day.seed.unwrap_or_default()))?;
    output.flush()?;
    follow(connection, &namespace, &run_name, Interrupt::Stops, output).await
}

/// The game day of a file or of the cluster, and the one in the cluster of that name, if there is one.
pub async fn find(what: &str, cluster: &Cluster) -> Result<(Connection, GameDay, Option<GameDay>), Failure> {
    if !is_file(what) {
        let connection = Connection::open(cluster).await?;
        let namespace = connection.namespace(None).to_owned();
        let api: Api<GameDay> = Api::namespaced(connection.client.clone(), &namespace);
        let Some(game_day) = ask(api.get_opt(what)).await? else {
            return Err(Failure::invalid(format!("no game day {what} in namespace {namespace}, and no such file")));
        };
        return Ok((connection, game_day.clone(), Some(game_day)));
    }
    let mut contents = source::read(what)?;
    if contents.game_days.len() > 1 {
        let names: Vec<&str> = contents.game_days.iter().filter_map(|(one, _)| one.metadata.name.as_deref()).collect();
        return Err(Failure::invalid(format!("{what}: {} game days ({}), and one is wanted", names.len(), names.join(", "))));
    }
    if !contents.others.is_empty() {
        // Only a note: where standard error is closed, nobody wants it.
        let _ = writeln!(anstream::stderr(), "{what}: {} other objects in it are left alone", contents.others.len());
    }
    let (game_day, _) = contents.game_days.remove(0);
    let connection = Connection::open(cluster).await?;
    let namespace = connection.namespace(game_day.metadata.namespace.as_deref()).to_owned();
    let api: Api<GameDay> = Api::namespaced(connection.client.clone(), &namespace);
    let known = ask(api.get_opt(game_day.metadata.name.as_deref().unwrap_or_default())).await?;
    Ok((connection, game_day, known))
}

/// A file exists, or is meant: names of game days have neither slashes nor such endings.
pub fn is_file(what: &str) -> bool {
    what == "-"
        || what.contains('/')
        || [".yaml", ".yml", ".json"].iter().any(|end| what.ends_with(end))
        || std::path::Path::new(what).exists()
}

fn new_run(name: &str, game_day: &GameDay, known: Option<&GameDay>) -> GameDayRun {
    let mut spec = game_day.spec.clone();
    // Short enough to be typed from a report.
    spec.seed = spec.seed.or_else(|| i64::try_from(draw() % 1_000_000).ok());
    let mut run = GameDayRun::new(
        &format!("{name}-{}", suffix(draw())),
        GameDayRunSpec {
            game_day_name: name.to_owned(),
            scheduled_for: None,
            game_day: spec,
            stop: None,
            people: People::default(),
            bound: None,
        },
    );
    let owner = known.and_then(|known| {
        Some(OwnerReference {
            api_version: GameDay::api_version(&()).into_owned(),
            kind: GameDay::kind(&()).into_owned(),
            name: known.metadata.name.clone()?,
            uid: known.metadata.uid.clone()?,
            controller: Some(true),
            block_owner_deletion: None,
        })
    });
    run.metadata = ObjectMeta {
        labels: Some([(LABEL_GAMEDAY.to_owned(), name.to_owned())].into()),
        owner_references: owner.map(|owner| vec![owner]),
        ..run.metadata
    };
    run
}

/// A random number: the standard library seeds its hash tables from the system's.
fn draw() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Five letters as Kubernetes gives them: no vowels, so no words.
fn suffix(drawn: u64) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let letters = LETTERS.len() as u64;
    (0..5u32).map(|place| char::from(LETTERS[usize::try_from(drawn / letters.pow(place) % letters).unwrap_or(0)])).collect()
}
