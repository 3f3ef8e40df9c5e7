use clap::Args;

use crate::rehearsal::{self, Event, Misfortune, Moment, Options, Planned};
use crate::report as reports;

use super::report::Form;
use super::source::{self, Contents};
use super::{Exit, Failure, Output, check, follow};

/// What is rehearsed when no file is named.
const EXAMPLE: &str = include_str!("../../examples/checkout.yaml");

/// Rehearse a game day without a cluster: a pretended one, in virtual time
#[derive(Debug, Args)]
pub struct Rehearse {
    /// YAML files with one game day and, if it should be like yours, its Deployments, Services, budgets and nodes;
    /// without a file, an example
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// What the pretended cluster draws from; the same seed gives the same run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw crashes, conflicts, lost replies and stale reads from the seed
    #[arg(long)]
    misfortune: bool,
    /// Kill the operator at this call to the cluster, counted from 1; another takes the run up
    #[arg(long, value_name = "CALL")]
    crash_at: Option<u64>,
    /// How the report is written
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

impl Rehearse {
    pub fn run(self, output: &mut Output) -> Result<Exit, Failure> {
        let mut contents = Contents::default();
        for file in &self.files {
            let Contents { game_days, others } = source::read_any(file)?;
            contents.game_days.extend(game_days);
            contents.others.extend(others);
        }
        if self.files.is_empty() {
            contents = source::with_game_day("the example", EXAMPLE.to_owned())?;
        }
        let [(game_day, plan)] = contents.game_days.as_slice() else {
            let names: Vec<&str> = contents.game_days.iter().filter_map(|(one, _)| one.metadata.name.as_deref()).collect();
            return Err(Failure::invalid(format!(
                "{} game days in {}, and one is wanted {}",
                names.len(),
                self.files.join(", "),
                names.join(", ")
            )));
        };
        let crash = self.crash_at.map(|call| Planned { at: None, call: Some(call), what: Misfortune::CrashBefore });
        let planned = crash.into_iter().collect();
        let options = Options { seed: self.seed, misfortune: self.misfortune, planned, ..Options::default() };
        // The story belongs to the report for people only: JSON and Markdown go to a program or a file.
        let told = matches!(self.output, Form::Text);
        let mut trouble = Ok(());
        let mut tell = |moment: &Moment<'_>| {
            if told && trouble.is_ok() {
                trouble = output.line(line(moment));
            }
        };
        let rehearsed = rehearsal::rehearse(game_day, &contents.others, &options, &mut tell).map_err(Failure::invalid)?;
        trouble?;
        if told {
            output.line("")?;
            for sentence in &rehearsed.invented {
                output.line(format!("made up: {sentence}"))?;
            }
            for warning in check::warnings(plan, &contents.others) {
                output.line(format!("warning: {warning}"))?;
            }
            let seconds = rehearsed.simulated.as_millis() as f64 / 1_000.0;
            output.line(format!(
                "rehearsed {seconds:.1} s in {} turns and {} calls; nothing was real\n",
                rehearsed.turns, rehearsed.calls
            ))?;
            output.text(&reports::text_after_record(&rehearsed.run))?;
        } else {
            output.text(&self.output.of(&rehearsed.run))?;
        }
        for violation in &rehearsed.violations {
            output.line(format!("BROKEN {violation}"))?;
        }
        let name = game_day.metadata.name.as_deref().unwrap_or_default();
        if !rehearsed.violations.is_empty() {
            return Err(Failure::new(
                Exit::Failed,
                anyhow::anyhow!(
                    "{name} broke a promise of gameday itself: please report it with the file and --seed {}",
                    self.seed
                ),
            ));
        }
        Ok(follow::exit(&rehearsed.run))
    }
}

fn line(moment: &Moment<'_>) -> String {
    let at = format!("+{:.1}s", moment.since.as_millis() as f64 / 1_000.0);
    match &moment.event {
        Event::Entry(entry) => reports::entry_at(&at, entry),
        Event::Misfortune(what) => format!("{at:>8}  Misfortune  {what}"),
    }
}
