//! From narrow to wide: wider only after the same experiment passed at a narrower stage, on the same images.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::api::{Cap, FaultKind};

use super::Named;
use super::answer::{Answer, Says};

/// An experiment of a finished run that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    pub namespace: String,
    pub game_day: String,
    pub experiment: String,
    pub kind: FaultKind,
    pub run: String,
    pub finished: Timestamp,
    /// The most targets at once, of so many candidates.
    pub hit: usize,
    pub candidates: usize,
    /// Of its targets.
    pub images: BTreeSet<String>,
}

/// What is asked for now.
pub struct Wished<'a> {
    pub namespace: &'a str,
    pub game_day: &'a str,
    pub experiment: &'a str,
    pub kind: FaultKind,
    pub hit: usize,
    pub candidates: usize,
    pub images: BTreeSet<String>,
}

/// `None`: the guardrail knows no stages.
pub fn promotion(guardrail: &Named, wished: &Wished, passes: &[Pass], now: Timestamp) -> Option<Answer> {
    let rule = guardrail.spec.promotion.as_ref()?;
    let wanted = stage(&rule.stages, wished.hit, wished.candidates);
    let since = now.saturating_sub(SignedDuration::from_hours(24 * i64::from(rule.days))).unwrap_or(Timestamp::MIN);
    let same = passes.iter().filter(|pass| {
        pass.namespace == wished.namespace
            && pass.game_day == wished.game_day
            && pass.experiment == wished.experiment
            && pass.kind == wished.kind
            && stage(&rule.stages, pass.hit, pass.candidates) + 1 >= wanted
    });
    let on_same_images = |pass: &&Pass| wished.images.is_subset(&pass.images);
    let last = same.clone().max_by_key(|pass| pass.finished);
    let counts = same.filter(on_same_images).filter(|pass| pass.finished >= since).max_by_key(|pass| pass.finished);
    let (says, sum, way_out) = match (wanted, counts, last) {
        (0, _, _) => (Says::Allow, "the narrowest stage needs nothing before it".to_owned(), String::new()),
        (_, Some(pass), _) => (Says::Allow, format!("{} passed narrower at {:.0}", pass.run, pass.finished), String::new()),
        (_, None, last) => {
            let narrower = words(&rule.stages[wanted - 1]);
            let because = match last {
                None => String::new(),
                Some(pass) if pass.finished < since => format!(" ({} is more than {} days ago)", pass.run, rule.days),
                Some(pass) => format!(" ({} hit other images)", pass.run),
            };
            (
                Says::Refuse,
                format!(
                    "{} of {} is wider than {narrower}, at which it has not passed within {} days on these images{because}",
                    wished.hit, wished.candidates, rule.days
                ),
                format!("let it pass at {narrower} first"),
            )
        }
    };
    Some(Answer {
        guardrail: guardrail.name.clone(),
        rule: "promotion",
        subject: wished.experiment.to_owned(),
        sum,
        way_out,
        says,
    })
}

/// The narrowest stage that this fits into; one beyond the last where it fits into none.
fn stage(stages: &[Cap], hit: usize, candidates: usize) -> usize {
    let fits = |stage: &Cap| {
        stage.targets.is_none_or(|targets| hit <= usize::try_from(targets).unwrap_or(0))
            && stage.percent.is_none_or(|percent| hit <= percent.of(candidates))
    };
    stages.iter().position(fits).unwrap_or(stages.len())
}

fn words(stage: &Cap) -> String {
    match (stage.targets, stage.percent) {
        (Some(targets), Some(percent)) => format!("{targets} targets and {percent}"),
        (Some(1), None) => "1 target".to_owned(),
        (Some(targets), None) => format!("{targets} targets"),
        (None, Some(percent)) => percent.to_string(),
        (None, None) => "nothing".to_owned(),
    }
}
