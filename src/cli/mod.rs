//! The command line: one file a verb. It reads, asks, shows and starts; what is decided is decided in `engine`.

#[cfg(target_os = "linux")]
mod agent;
mod allow;
mod check;
mod complaint;
mod completions;
mod connect;
mod crds;
mod doctor;
mod document;
mod exit;
mod explain;
mod follow;
mod frame;
mod inject;
mod install;
mod operator;
mod output;
mod people;
mod plan;
mod policies;
mod rehearse;
mod release;
mod report;
mod run;
mod runs;
mod schema;
mod source;
mod span;
mod stop;
mod watch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use exit::{Exit, Failure};
use output::Output;

/// Game days on Kubernetes: faults within limits, watched, reverted and proven.
#[derive(Debug, Parser)]
#[command(name = "gameday", version, arg_required_else_help = true, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes: 0 passed, 1 failed, 2 usage or an invalid file, 3 inconclusive, 4 refused,
5 no connection or no operator.";

/// Which cluster, and where in it.
#[derive(Clone, Debug, Default, Args)]
pub struct Cluster {
    /// The kubeconfig file; otherwise as kubectl finds it
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context in it
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// The namespace; otherwise the file's, or the context's
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(check::Check),
    Plan(plan::Plan),
    Rehearse(rehearse::Rehearse),
    Run(run::Run),
    Inject(inject::Inject),
    Explain(explain::Explain),
    Watch(watch::Watch),
    Stop(stop::Stop),
    Release(release::Release),
    Approve(people::Approve),
    Answer(people::Answer),
    Note(people::Note),
    Runs(runs::Runs),
    Report(report::Report),
    Doctor(doctor::Doctor),
    Allow(allow::Allow),
    Install(install::Install),
    Crds(crds::Crds),
    Completions(completions::Completions),
    Operator(operator::Operator),
    #[cfg(target_os = "linux")]
    Agent(agent::Agent),
    #[cfg(target_os = "linux")]
    Hold(crate::holder::HoldArgs),
}

/// Runs what the arguments say, the program's own name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // As the agent starts its holders, many at once: the grammar of the whole command line takes longer than the rest.
    #[cfg(target_os = "linux")]
    if let [_, verb] = &arguments[..]
        && verb == "hold"
    {
        return crate::holder::hold_as_ordered().into();
    }
    let matches = match command(arguments.first()).try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(refusal) => {
            let exit = if refusal.use_stderr() { Exit::Invalid } else { Exit::Passed };
            // Nothing can be said where standard error is closed.
            let _ = refusal.print();
            return exit;
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(refusal) => refusal.exit(),
    };
    match cli.run() {
        Ok(exit) => exit,
        Err(failure) => failure.tell(),
    }
}

/// The command line's grammar. As a plugin of kubectl it speaks of itself as the user called it.
pub fn command(program: Option<&OsString>) -> clap::Command {
    let plugin = program.and_then(|program| Path::new(program).file_stem()).is_some_and(|name| name == "kubectl-gameday");
    let command = Cli::command();
    if plugin { command.bin_name("kubectl gameday").display_name("kubectl gameday") } else { command }
}

impl Cli {
    fn run(self) -> Result<Exit, Failure> {
        let Cli { cluster, verb } = self;
        let mut output = Output::stdout();
        match verb {
            Verb::Check(check) => check.run(&mut output),
            Verb::Plan(plan) => wait(plan.run(&cluster, &mut output)),
            Verb::Rehearse(rehearse) => rehearse.run(&mut output),
            Verb::Run(run) => wait(run.run(&cluster, &mut output)),
            Verb::Inject(inject) => wait(inject.run(&cluster, &mut output)),
            Verb::Explain(explain) => explain.run(&mut output),
            Verb::Watch(watch) => wait(watch.run(&cluster, &mut output)),
            Verb::Stop(stop) => wait(stop.run(&cluster, &mut output)),
            Verb::Release(release) => wait(release.run(&cluster, &mut output)),
            Verb::Approve(approve) => wait(approve.run(&cluster, &mut output)),
            Verb::Answer(answer) => wait(answer.run(&cluster, &mut output)),
            Verb::Note(note) => wait(note.run(&cluster, &mut output)),
            Verb::Runs(runs) => wait(runs.run(&cluster, &mut output)),
            Verb::Report(report) => wait(report.run(&cluster, &mut output)),
            Verb::Doctor(doctor) => wait(doctor.run(&cluster, &mut output)),
            Verb::Allow(allow) => allow.run(&mut output),
            Verb::Install(install) => install.run(cluster.namespace.as_deref(), &mut output),
            Verb::Crds(crds) => crds.run(&mut output),
            Verb::Completions(completions) => completions.run(&mut output),
            Verb::Operator(operator) => operator.run(cluster),
            #[cfg(target_os = "linux")]
            Verb::Agent(agent) => agent.run(cluster),
            #[cfg(target_os = "linux")]
            Verb::Hold(hold) => Ok(crate::holder::hold(&hold).into()),
        }
    }
}

/// One person waits for one answer: one thread is enough.
fn wait(verb: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::alone(format!("starting: {error}")))?;
    runtime.block_on(verb)
}
