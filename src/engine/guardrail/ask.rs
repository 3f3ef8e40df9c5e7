//! Everything together.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::api::{Approval, Duration, Fault, FaultKind};
use crate::engine::RunId;

use super::answer::{Answer, Says};
use super::picture::Hit;
use super::promotion::{Pass, Wished};
use super::reach::{self, Scene};
use super::{Named, Picture, approval, budget, check, covering, kinds, moment, promotion, protect};

/// One experiment that wants to begin, or to go on.
pub struct Asked<'a> {
    pub run: &'a RunId,
    pub game_day: &'a str,
    pub experiment: &'a str,
    pub kind: FaultKind,
    pub fault: &'a Fault,
    pub hold: Duration,
    /// Those chosen; while it is held, those in force. Empty while none are chosen: then only what does not
    /// depend on them is asked.
    pub victims: &'a [Hit],
    pub candidates: usize,
    pub approvals: &'a [Approval],
    /// Experiments that passed, of any run.
    pub passes: &'a [Pass],
    pub stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is touched yet, or a further round is wanted.
    Starting,
    /// In force: anything but Allow ends it.
    Held,
}

/// What every rule of every guardrail that holds says.
pub fn ask(guardrails: &[Named], picture: &Picture, asked: &Asked, now: Timestamp) -> Vec<Answer> {
    let holding = covering(guardrails, picture, &asked.run.namespace, asked.victims);
    if !picture.synced {
        return holding
            .iter()
            .map(|guardrail| Answer {
                guardrail: guardrail.name.clone(),
                rule: "reach",
                subject: String::new(),
                sum: "the cluster has not been read yet".to_owned(),
                way_out: String::new(),
                says: Says::Wait,
            })
            .collect();
    }
    let scene = Scene::new(picture, asked.victims);
    holding.iter().flat_map(|guardrail| ask_one(guardrail, &scene, asked, now)).collect()
}

fn ask_one(guardrail: &Named, scene: &Scene, asked: &Asked, now: Timestamp) -> Vec<Answer> {
    if let Err(problems) = check::check(&guardrail.spec) {
        // In doubt, nothing.
        return vec![Answer {
            guardrail: guardrail.name.clone(),
            rule: "spec",
            subject: String::new(),
            sum: format!("it cannot be obeyed as written: {problems}"),
            way_out: "let the platform team mend it".to_owned(),
            says: Says::Wait,
        }];
    }
    let mut answers = kinds::kinds(guardrail, asked.kind, asked.fault, asked.hold);
    answers.extend(protect::protect(guardrail, scene.index.picture, asked.victims));
    answers.extend(moment::moment(guardrail, scene, &asked.run.namespace, now));
    answers.extend(approval::approval(guardrail, asked.run, asked.approvals, now));
    if asked.stage == Stage::Starting && !asked.victims.is_empty() {
        answers.extend(promotion::promotion(guardrail, &wished(scene, asked), asked.passes, now));
    }
    answers.extend(reach::reach(guardrail, scene));
    answers.extend(budget::budgets(guardrail, scene));
    answers
}

fn wished<'a>(scene: &Scene, asked: &'a Asked) -> Wished<'a> {
    let of_victims = |uid: &str, owner: Option<&super::WorkloadKey>| {
        asked
            .victims
            .iter()
            .any(|hit| hit.target.uid == uid || (!hit.is_pod() && hit.owner.is_some() && hit.owner.as_ref() == owner))
    };
    let images: BTreeSet<String> = scene
        .index
        .picture
        .pods
        .iter()
        .filter(|pod| of_victims(&pod.uid, pod.owner.as_ref()))
        .flat_map(|pod| pod.images.iter().cloned())
        .collect();
    let scaled: usize = asked.victims.iter().map(Hit::shrinks).sum();
    Wished {
        namespace: &asked.run.namespace,
        game_day: asked.game_day,
        experiment: asked.experiment,
        kind: asked.kind,
        hit: if scaled > 0 { scaled } else { asked.victims.len() },
        candidates: asked.candidates,
        images,
    }
}
