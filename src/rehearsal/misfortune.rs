//! What can go wrong, and when: written in a scenario, put at one call by the crash test, or drawn from a seed.

use serde::{Deserialize, Serialize};

use crate::api::Duration;

use super::dice::Dice;

/// One misfortune with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Planned {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Duration>,
    /// At this call to the world, counted from 1 over all operators of the run; nothing happens where the call
    /// is not one that it could befall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    pub what: Misfortune,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Misfortune {
    /// The operator's process is lost just before the call's effect; another takes the run up.
    CrashBefore,
    /// The same, just after the call's effect.
    CrashAfter,
    /// Somebody else writes the run just before it is recorded, or the target just before it is acted on.
    Conflict,
    /// It happened, but the answer does not arrive.
    ReplyLost,
    /// It did not happen, and there is no answer.
    NoAnswer,
    /// No call is answered for so long.
    Outage(Duration),
    /// The operator sees nothing new for so long, and does not know it.
    Stale(Duration),
    /// Another operator takes the run up, and both believe that they lead.
    SecondOperator,
    DeleteRun,
    Stop(String),
    PullCord(String),
    ReleaseCord,
    /// Somebody else scales a workload.
    ScaledByHand {
        name: String,
        replicas: i32,
    },
    /// A chosen pod vanishes before it is hit; without a chosen one, any.
    PodVanishes,
    NodeVanishes(String),
}

impl Misfortune {
    /// Whether it waits for a call that it can befall.
    pub fn befalls_calls(&self) -> bool {
        match self {
            Misfortune::CrashBefore
            | Misfortune::CrashAfter
            | Misfortune::Conflict
            | Misfortune::ReplyLost
            | Misfortune::NoAnswer => true,
            Misfortune::Outage(_)
            | Misfortune::Stale(_)
            | Misfortune::SecondOperator
            | Misfortune::DeleteRun
            | Misfortune::Stop(_)
            | Misfortune::PullCord(_)
            | Misfortune::ReleaseCord
            | Misfortune::ScaledByHand { .. }
            | Misfortune::PodVanishes
            | Misfortune::NodeVanishes(_) => false,
        }
    }

    /// As it is told.
    pub fn words(&self) -> String {
        match self {
            Misfortune::CrashBefore => "the operator is killed before it can act".to_owned(),
            Misfortune::CrashAfter => "the operator is killed right after it acted".to_owned(),
            Misfortune::Conflict => "somebody else writes at the same time".to_owned(),
            Misfortune::ReplyLost => "an answer is lost".to_owned(),
            Misfortune::NoAnswer => "a call is not answered".to_owned(),
            Misfortune::Outage(length) => format!("the API server does not answer for {length}"),
            Misfortune::Stale(length) => format!("the operator sees nothing new for {length}"),
            Misfortune::SecondOperator => "another operator believes that it leads".to_owned(),
            Misfortune::DeleteRun => "the run is deleted".to_owned(),
            Misfortune::Stop(reason) => format!("the run is stopped: {reason}"),
            Misfortune::PullCord(reason) => format!("the cord is pulled: {reason}"),
            Misfortune::ReleaseCord => "the cord is released".to_owned(),
            Misfortune::ScaledByHand { name, replicas } => format!("somebody scales {name} to {replicas}"),
            Misfortune::PodVanishes => "a pod vanishes".to_owned(),
            Misfortune::NodeVanishes(name) => format!("the node {name} vanishes"),
        }
    }
}

/// Draws up to four misfortunes over the length of a run. `workloads` and `nodes` are whom they may befall.
pub fn draw(dice: &mut Dice, length: Duration, workloads: &[String], nodes: &[String]) -> Vec<Planned> {
    let count = dice.below(5);
    let mut drawn = Vec::new();
    for _ in 0..count {
        let at = Duration::from_millis(dice.below(length.as_millis().max(1)));
        let short = Duration::from_millis(500 + dice.below(5_000));
        let what = match dice.below(18) {
            0 | 1 => Misfortune::CrashBefore,
            2 | 3 => Misfortune::CrashAfter,
            4 => Misfortune::Conflict,
            5 => Misfortune::ReplyLost,
            6 => Misfortune::NoAnswer,
            7 => Misfortune::Outage(short),
            8 | 9 => Misfortune::Stale(short),
            10 | 11 => Misfortune::SecondOperator,
            12 => Misfortune::DeleteRun,
            13 => Misfortune::Stop("enough".to_owned()),
            14 => {
                let released = at.saturating_add(short);
                drawn.push(Planned { at: Some(released), call: None, what: Misfortune::ReleaseCord });
                Misfortune::PullCord("drawn".to_owned())
            }
            15 if !workloads.is_empty() => {
                let name = workloads[dice.index(workloads.len())].clone();
                Misfortune::ScaledByHand { name, replicas: i32::try_from(dice.below(7)).unwrap_or(0) }
            }
            16 if !nodes.is_empty() => Misfortune::NodeVanishes(nodes[dice.index(nodes.len())].clone()),
            _ => Misfortune::PodVanishes,
        };
        drawn.push(Planned { at: Some(at), call: None, what });
    }
    drawn
}
