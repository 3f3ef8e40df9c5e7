//! What guardrails say of one run: whether it may begin, whom it may hit, and whether what it holds may stay.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::{Approval, ExperimentStatus, GameDayRunStatus, TargetKind, TargetStatus};

use super::admit::{Kind, Plan, Planned};
use super::fault::{self, Candidate};
use super::guardrail::{
    self, Answer, Asked, Effect, Hit, Named, Pass, Picture, Says, Stage, WorkloadKey, covering, kind_of, sentence, spared,
    verdict,
};
use super::{Run, TargetId};

/// What is needed to ask.
#[derive(Clone, Debug, Default)]
pub struct Guarded {
    pub guardrails: Arc<Vec<Named>>,
    /// With everything in force, over all runs.
    pub picture: Arc<Picture>,
    /// Experiments that passed, of any run.
    pub passes: Arc<Vec<Pass>>,
}

/// A fault in force, as it is recorded: what other runs must count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub namespace: String,
    pub target: TargetId,
    pub node: Option<String>,
    pub effect: Effect,
}

impl Recorded {
    /// What is known of the target besides, from the picture. What is not in it any more is counted all the same.
    pub fn hit(&self, picture: &Picture) -> Hit {
        let Recorded { namespace, target, node, effect } = self;
        let shown = match target.kind {
            TargetKind::Pod => picture.pod(&target.uid).map(|pod| Picture::hit_pod(pod, *effect)),
            TargetKind::Node => {
                picture.nodes.iter().find(|node| node.uid == target.uid).map(|node| Picture::hit_node(node, *effect))
            }
            TargetKind::Deployment | TargetKind::StatefulSet => None,
        };
        shown.unwrap_or_else(|| {
            let owner = match target.kind {
                TargetKind::Deployment | TargetKind::StatefulSet => {
                    Some(WorkloadKey { namespace: namespace.clone(), kind: target.kind.to_string(), name: target.name.clone() })
                }
                TargetKind::Pod | TargetKind::Node => None,
            };
            let labels = owner.as_ref().and_then(|owner| picture.workloads.get(owner)).map(|found| found.pod_labels.clone());
            Hit {
                target: target.clone(),
                namespace: (target.kind != TargetKind::Node).then(|| namespace.clone()),
                node: node.clone(),
                owner,
                labels: labels.unwrap_or_default(),
                effect: *effect,
            }
        })
    }
}

/// What a run has in force by its record. A pod that was killed is over as a fault; that it is missing is seen.
pub fn recorded(run: &Run) -> Vec<Recorded> {
    let Ok(plan) = &run.plan else { return Vec::new() };
    let experiments = plan.experiments.iter().zip(&run.status.experiments);
    experiments.flat_map(|(planned, status)| recorded_of(&run.id.namespace, planned, status)).collect()
}

fn recorded_of(namespace: &str, planned: &Planned, status: &ExperimentStatus) -> Vec<Recorded> {
    let in_force = status.targets.iter().filter(|target| target.clean.is_none());
    let recorded = |target: &TargetStatus| Recorded {
        namespace: namespace.to_owned(),
        target: fault::id(target),
        node: target.node.clone(),
        effect: effect(&planned.kind, target.undo.as_ref().and_then(|undo| Some((undo.replicas?, undo.set_replicas?)))),
    };
    in_force.map(recorded).collect()
}

/// What a fault does, as far as guardrails care. `replicas`: of a workload that is scaled, from and to.
fn effect(kind: &Kind, replicas: Option<(i32, i32)>) -> Effect {
    match kind {
        Kind::PodKill { .. } | Kind::PodEvict { .. } => Effect::TakesAway,
        Kind::Scale(_) => {
            let (from, to) = replicas.unwrap_or_default();
            let count = |replicas: i32| usize::try_from(replicas).unwrap_or(0);
            Effect::Scales { from: count(from), to: count(to) }
        }
        Kind::Cordon => Effect::Unschedulable,
        Kind::Hold(held) => {
            let fault = &held.fault;
            let cut_off = fault.network.as_ref().is_some_and(|network| network.partition == Some(true));
            let away = cut_off || fault.pause.is_some() || fault.container_kill.is_some();
            if away { Effect::TakesAway } else { Effect::Disturbs }
        }
    }
}

fn hits(run: &Run, planned: &Planned, candidates: &[Candidate], picture: &Picture) -> Vec<Hit> {
    let hit = |candidate: &Candidate| {
        let replicas = candidate.undo.as_ref().and_then(|undo| Some((undo.replicas?, undo.set_replicas?)));
        let recorded = Recorded {
            namespace: run.id.namespace.clone(),
            target: candidate.target.clone(),
            node: candidate.node.clone(),
            effect: effect(&planned.kind, replicas),
        };
        let mut hit = recorded.hit(picture);
        if hit.labels.is_empty() {
            hit.labels = candidate.labels.clone();
        }
        hit
    };
    candidates.iter().map(hit).collect()
}

/// Why it is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Against {
    /// Not now.
    Wait(String),
    /// Never, as it is written.
    Refuse(String),
}

fn against(answers: &[Answer]) -> Result<(), Against> {
    let said = sentence(answers).unwrap_or_default();
    match verdict(answers) {
        Says::Allow => Ok(()),
        Says::Wait => Err(Against::Wait(said)),
        Says::Refuse => Err(Against::Refuse(said)),
    }
}

/// What is asked of an experiment.
struct Question<'a> {
    victims: &'a [Hit],
    candidates: usize,
    stage: Stage,
    approvals: &'a [Approval],
}

impl Guarded {
    fn ask(&self, run: &Run, index: usize, question: Question, now: Timestamp) -> Vec<Answer> {
        let (Ok(plan), Some(written)) = (&run.plan, run.spec.game_day.experiments.get(index)) else { return Vec::new() };
        let planned = &plan.experiments[index];
        let Question { victims, candidates, stage, approvals } = question;
        let asked = Asked {
            run: &run.id,
            game_day: &run.spec.game_day_name,
            experiment: &planned.name,
            kind: kind_of(&planned.kind),
            fault: &written.fault,
            hold: planned.hold,
            victims,
            candidates,
            approvals,
            passes: &self.passes,
            stage,
        };
        guardrail::ask(&self.guardrails, &self.picture, &asked, now)
    }

    /// What every rule says of these victims; of none, what does not depend on them.
    pub fn answers(
        &self,
        run: &Run,
        index: usize,
        victims: &[Candidate],
        candidates: usize,
        approvals: &[Approval],
        now: Timestamp,
    ) -> Vec<Answer> {
        let Ok(plan) = &run.plan else { return Vec::new() };
        let victims = hits(run, &plan.experiments[index], victims, &self.picture);
        self.ask(run, index, Question { victims: &victims, candidates, stage: Stage::Starting, approvals }, now)
    }

    /// What an experiment has in force by this status.
    fn own(&self, run: &Run, plan: &Plan, index: usize, status: &ExperimentStatus) -> Vec<Hit> {
        let recorded = recorded_of(&run.id.namespace, &plan.experiments[index], status);
        recorded.iter().map(|recorded| recorded.hit(&self.picture)).collect()
    }

    /// Whether the run may begin, as far as that does not depend on who is hit.
    ///
    /// # Errors
    /// Why not.
    pub fn may_begin(&self, run: &Run, plan: &Plan, approvals: &[Approval], now: Timestamp) -> Result<(), Against> {
        let mut answers: Vec<Answer> = Vec::new();
        for index in 0..plan.experiments.len() {
            for answer in self.ask(run, index, Question { victims: &[], candidates: 0, stage: Stage::Starting, approvals }, now) {
                if !answers.contains(&answer) {
                    answers.push(answer);
                }
            }
        }
        against(&answers)
    }

    /// Whether these may be hit now.
    ///
    /// # Errors
    /// Why not.
    pub fn may_hit(
        &self,
        run: &Run,
        index: usize,
        victims: &[Candidate],
        candidates: usize,
        approvals: &[Approval],
        now: Timestamp,
    ) -> Result<(), Against> {
        against(&self.answers(run, index, victims, candidates, approvals, now))
    }

    /// Whether what an experiment has in force may stay.
    ///
    /// # Errors
    /// Why not.
    pub fn may_stay(
        &self,
        run: &Run,
        index: usize,
        status: &ExperimentStatus,
        approvals: &[Approval],
        now: Timestamp,
    ) -> Result<(), String> {
        let Ok(plan) = &run.plan else { return Ok(()) };
        // A cluster that cannot be seen for a moment is no reason to end anything: the probes see for themselves.
        if !self.picture.synced {
            return Ok(());
        }
        let own = self.own(run, plan, index, status);
        match against(&self.ask(run, index, Question { victims: &own, candidates: 0, stage: Stage::Held, approvals }, now)) {
            Ok(()) => Ok(()),
            Err(Against::Wait(why) | Against::Refuse(why)) => Err(why),
        }
    }

    /// Whether what a run is about to record beyond this status is allowed together with all that is in force by now.
    pub fn may_claim(&self, run: &Run, before: &GameDayRunStatus, approvals: &[Approval], now: Timestamp) -> bool {
        let Ok(plan) = &run.plan else { return true };
        run.status.experiments.iter().enumerate().all(|(index, status)| {
            let known = before.experiments.get(index).map_or(0, |before| before.targets.len());
            if status.targets.len() <= known {
                return true;
            }
            let own = self.own(run, plan, index, status);
            let candidates = usize::try_from(status.candidates.unwrap_or(0)).unwrap_or(0);
            against(&self.ask(run, index, Question { victims: &own, candidates, stage: Stage::Starting, approvals }, now)).is_ok()
        })
    }

    /// Those of these who may be chosen from, and why the others may not.
    pub fn spare(&self, run: &Run, index: usize, all: Vec<Candidate>) -> (Vec<Candidate>, Vec<Answer>) {
        let Ok(plan) = &run.plan else { return (all, Vec::new()) };
        let wished = hits(run, &plan.experiments[index], &all, &self.picture);
        let holding = covering(&self.guardrails, &self.picture, &run.id.namespace, &wished);
        let mut reasons = Vec::new();
        let kept = all
            .into_iter()
            .zip(spared(&holding, &self.picture, &wished))
            .filter_map(|(candidate, answer)| match answer {
                None => Some(candidate),
                Some(answer) => {
                    reasons.push(answer);
                    None
                }
            })
            .collect();
        (kept, reasons)
    }

    /// The guardrails that hold for a run, whomever it hits.
    pub fn holding(&self, run: &Run) -> Vec<Named> {
        covering(&self.guardrails, &self.picture, &run.id.namespace, &[])
    }

    /// Names of the guardrails whose slots the run needs, with how many each has.
    pub fn slots(&self, run: &Run) -> Vec<(String, usize)> {
        self.holding(run).into_iter().map(|named| (named.name, usize::try_from(named.spec.runs).unwrap_or(0))).collect()
    }
}

/// What passed in a finished run, for promotion.
pub fn passes(run: &Run) -> Vec<Pass> {
    let (Ok(plan), Some(finished)) = (&run.plan, run.status.finished) else { return Vec::new() };
    let passed = |status: &&ExperimentStatus| status.verdict == Some(crate::api::Verdict::Passed);
    let pass = |status: &ExperimentStatus| {
        let planned = plan.experiments.iter().find(|planned| planned.name == status.name)?;
        let mut at_once = std::collections::BTreeMap::<Timestamp, usize>::new();
        for target in &status.targets {
            let shrinks = target.undo.as_ref().and_then(|undo| usize::try_from(undo.replicas? - undo.set_replicas?).ok());
            *at_once.entry(target.recorded).or_default() += shrinks.unwrap_or(1);
        }
        Some(Pass {
            namespace: run.id.namespace.clone(),
            game_day: run.spec.game_day_name.clone(),
            experiment: status.name.clone(),
            kind: kind_of(&planned.kind),
            run: run.id.name.clone(),
            finished,
            hit: at_once.into_values().max().unwrap_or(0),
            candidates: usize::try_from(status.candidates.unwrap_or(0)).unwrap_or(0),
            images: status.images.iter().cloned().collect(),
        })
    };
    run.status.experiments.iter().filter(passed).filter_map(pass).collect()
}

/// The images of those who are hit, for the record: what passes on one image says nothing of another.
pub fn images(guarded: &Guarded, victims: &[Candidate]) -> BTreeSet<String> {
    let is_victim = |uid: &str, owner: Option<&WorkloadKey>| {
        victims.iter().any(|victim| {
            let kind = victim.target.kind;
            let of_workload = matches!(kind, TargetKind::Deployment | TargetKind::StatefulSet)
                && owner.is_some_and(|owner| owner.kind == kind.to_string() && owner.name == victim.target.name);
            victim.target.uid == uid || of_workload
        })
    };
    let pods = guarded.picture.pods.iter().filter(|pod| is_victim(&pod.uid, pod.owner.as_ref()));
    pods.flat_map(|pod| pod.images.iter().cloned()).collect()
}

#[cfg(test)]
mod tests;
