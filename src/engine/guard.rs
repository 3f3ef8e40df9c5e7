//! The blast radius: how much room is left, counted over everything that is in force in the run, whatever
//! experiment did it, including what still reverts and what was killed and is not replaced yet (P2).

use crate::api::{ExperimentStatus, TargetStatus};

use super::admit::{Choice, Plan, Planned};
use super::fault::{self, Candidate, Sight};
use super::guardrail::sentence;
use super::select;
use super::{Observation, Run};

/// What choosing came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Chosen {
    /// These, of so many candidates. `before`: candidates when nothing of this run is in force on them.
    Targets { victims: Vec<Candidate>, candidates: usize, before: usize, sum: String },
    /// There will be room, or there may be: why not now.
    Wait(String),
    /// It can never be done as written: the sum, and the way out.
    Refused(String),
}

/// In force in one experiment, each with how much it takes away: targets not known to be clean, killed pods that
/// nothing has replaced, and replicas that were given back and are not ready yet.
struct InForce<'a>(Vec<(&'a TargetStatus, usize)>);

impl InForce<'_> {
    fn weight(&self, counts: impl Fn(&TargetStatus) -> bool) -> usize {
        self.0.iter().filter(|(target, _)| counts(target)).map(|(_, weight)| weight).sum()
    }
}

fn in_force<'a>(planned: &Planned, status: &'a ExperimentStatus, seen: &Observation) -> InForce<'a> {
    let (cleaned, unclean): (Vec<&TargetStatus>, Vec<&TargetStatus>) =
        status.targets.iter().partition(|target| target.clean.is_some());
    // A workload is whole again when as many are ready as before; until then its lost pods count.
    let (killed, undone): (Vec<&TargetStatus>, Vec<&TargetStatus>) = cleaned
        .into_iter()
        .filter(|target| target.bite.is_some() && (planned.kind.takes_away() || target.undo.is_some()))
        .partition(|target| target.undo.is_none());
    let before = usize::try_from(status.ready_before.unwrap_or(0)).unwrap_or(0);
    let ready = fault::candidates(planned, seen)
        .map(|ready| ready.iter().filter(|pod| !unclean.iter().any(|target| target.uid == pod.target.uid)).count())
        .unwrap_or(0);
    let missing = before.saturating_sub(ready + unclean.len()).min(killed.len());
    let missing = killed[killed.len() - missing..].iter();
    let weight = |target: &TargetStatus| usize::try_from(target.weight).unwrap_or(0);
    let whole = unclean.iter().chain(missing).map(|target| (*target, weight(target)));
    let returning = undone.into_iter().map(|target| (target, returning(target, seen).min(weight(target))));
    InForce(whole.chain(returning).collect())
}

/// Replicas of a workload that was scaled back which are not ready yet.
fn returning(target: &TargetStatus, seen: &Observation) -> usize {
    let before = target.undo.as_ref().and_then(|undo| undo.replicas);
    match (before, fault::sight(target, seen)) {
        // What somebody, or another experiment, took away since is not ours to wait for.
        (Some(before), Sight::Workload(workload)) => usize::try_from(before.min(workload.replicas) - workload.ready).unwrap_or(0),
        (Some(_) | None, Sight::Workload(_) | Sight::Pod(_) | Sight::Node(_) | Sight::Gone | Sight::Unknown) => 0,
    }
}

/// Chooses an experiment's targets for a round, or says why not.
pub fn choose(run: &Run, plan: &Plan, experiments: &[ExperimentStatus], index: usize, round: u32, seen: &Observation) -> Chosen {
    let planned = &plan.experiments[index];
    let all = match fault::candidates(planned, seen) {
        Ok(all) => all,
        Err(why) => return Chosen::Refused(why),
    };
    let (all, spared) = match &seen.guarded {
        Some(guarded) => guarded.spare(run, index, all),
        None => (all, Vec::new()),
    };
    let in_force: Vec<InForce> =
        plan.experiments.iter().zip(experiments).map(|(planned, status)| in_force(planned, status, seen)).collect();
    let number = i32::try_from(index).unwrap_or(i32::MAX);
    let here: usize = in_force.iter().map(|held| held.weight(|target| target.within.contains(&number))).sum();
    let everywhere: usize = in_force.iter().map(|held| held.weight(|_| true)).sum();
    let taken = |candidate: &&Candidate| {
        !plan.experiments.iter().zip(experiments).any(|(planned, status)| {
            let is = |target: &TargetStatus| target.clean.is_none() || planned.kind.takes_away();
            status.targets.iter().any(|target| target.uid == candidate.target.uid && is(target))
        })
    };
    let free: Vec<Candidate> = all.iter().filter(taken).cloned().collect();

    let what = fault::describe(&planned.candidates);
    if free.is_empty()
        && here == 0
        && let Some(why) = sentence(&spared)
    {
        return Chosen::Refused(why);
    }
    if free.is_empty() && here == 0 {
        return Chosen::Refused(format!("nobody to choose from: there are no {what}"));
    }
    // A scaled workload is a whole of its replicas; otherwise the whole is who could be hit, and who is.
    let replicas = free.first().and_then(|candidate| candidate.undo.as_ref()).and_then(|undo| undo.replicas);
    let whole = match replicas {
        Some(replicas) => usize::try_from(replicas).unwrap_or(0),
        None => free.len() + here,
    };
    let wanted = match planned.choose {
        Choice::Count(count) => count,
        Choice::Percent(percent) => match (percent.of(whole), crate::api::Percent::smallest_of(whole)) {
            (0, Some(enough)) => {
                return Chosen::Refused(format!(
                    "choose.percent: {percent} of {whole} is nobody; ask for at least {enough} or use count"
                ));
            }
            (wanted, _) => wanted,
        },
    };
    let victims: Vec<Candidate> = select::rank(plan.seed, &planned.name, round, &free, |candidate| &candidate.target.name)
        .into_iter()
        .take(wanted)
        .cloned()
        .collect();
    let weight = if replicas.is_some() { victims.iter().map(|victim| victim.weight).sum() } else { wanted };
    let targets_max = usize::try_from(plan.blast_radius.targets).unwrap_or(0);
    let percent_max = plan.blast_radius.percent.of(whole);
    if weight > targets_max {
        return Chosen::Refused(format!("{weight} at once is more than blastRadius.targets, {targets_max}"));
    }
    if weight > percent_max {
        return Chosen::Refused(format!(
            "{weight} of {whole} {what} is more than blastRadius.percent: {} of {whole} is {percent_max}",
            plan.blast_radius.percent
        ));
    }
    if weight + everywhere > targets_max {
        return Chosen::Wait(format!("{everywhere} in force and {weight} more is above blastRadius.targets, {targets_max}"));
    }
    if weight + here > percent_max {
        return Chosen::Wait(format!(
            "{here} in force and {weight} more is above {} of {whole}, {percent_max}",
            plan.blast_radius.percent
        ));
    }
    if victims.len() < wanted {
        return if here > 0 {
            Chosen::Wait(format!("only {} of {wanted} can be hit now", victims.len()))
        } else {
            Chosen::Refused(format!("choose.count: {wanted} is more than there are: {} {what}", free.len()))
        };
    }
    let spared = match spared.len() {
        0 => String::new(),
        spared => format!(", {spared} spared by guardrails"),
    };
    let sum = format!("{} of {} {what}{spared}", victims.len(), free.len());
    Chosen::Targets { victims, candidates: free.len(), before: free.len() + here, sum }
}
