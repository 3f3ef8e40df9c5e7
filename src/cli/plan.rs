//! What a run would do if it started now: asked of the cluster, decided by the engine, and nothing touched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::api::{
    Bound, BoundVictims, Cord, ExperimentStatus, GameDay, GameDayRun, GameDayRunSpec, GameDayRunStatus, GameDaySpec, Guardrail,
    People, Selector,
};
use crate::cluster::{Inventory, objects, permission, record};
use crate::engine::admit::{Candidates, Plan as Admitted};
use crate::engine::bound;
use crate::engine::guard::{self, Chosen};
use crate::engine::guarded::{self, Guarded};
use crate::engine::guardrail::{self, Named, Says};
use crate::engine::liveness;
use crate::engine::{self, Answer, Observation, Permission, PodSeen, Pulled, Run, RunId};
use crate::operator::agents_namespace;
use crate::report as reports;

use super::connect::{ANSWER, ask};
use super::{Cluster, Exit, Failure, Output, run};

/// Say what a run would do now: its exact victims, and what would be refused
#[derive(Debug, Args)]
pub struct Plan {
    /// A YAML file with one game day, or the name of one in the cluster
    #[arg(value_name = "FILE|NAME")]
    what: String,
    /// Write what was seen into this file: `gameday run --plan FILE` refuses where it is not so any more
    #[arg(long, value_name = "FILE")]
    save: Option<std::path::PathBuf>,
}

impl Plan {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let (connection, game_day, _) = run::find(&self.what, cluster).await?;
        let namespace = connection.namespace(game_day.metadata.namespace.as_deref()).to_owned();
        let plan = engine::admit::admit(&game_day.spec).map_err(Failure::refused)?;
        let mut seen = observe(&connection.client, &namespace, &plan).await?;
        let run = as_run(&namespace, &game_day, plan.clone());
        let (guarded, board) = guarded(&connection.client, &run).await?;
        seen.guarded = guarded;
        let (mut lines, refused) = tell(&game_day.spec, &run, &plan, &seen);
        lines.extend(board);
        lines.extend(pulled(&connection.client, &namespace).await);
        if let Some(path) = &self.save {
            let bound = bind(&run, &plan, &seen)?;
            let text = serde_json::to_string_pretty(&bound).map_err(|error| Failure::alone(error.to_string()))?;
            std::fs::write(path, text + "\n").map_err(|error| Failure::alone(format!("{}: {error}", path.display())))?;
            lines.push(format!("  saved in {0}: gameday run {1} --plan {0}", path.display(), self.what));
        }
        output.line(format!("{namespace}/{}", game_day.metadata.name.as_deref().unwrap_or_default()))?;
        for line in lines {
            output.line(line)?;
        }
        Ok(if refused { Exit::Refused } else { Exit::Passed })
    }
}

/// The plan in lines, and whether any of it would be refused.
fn tell(spec: &GameDaySpec, run: &Run, plan: &Admitted, seen: &Observation) -> (Vec<String>, bool) {
    let radius = &plan.blast_radius;
    let mut refused = false;
    let mut lines = vec![
        format!("  hypothesis    {}", spec.hypothesis),
        format!(
            "  blast radius  at most {} at once, {} of the candidates, held at most {}",
            radius.targets, radius.percent, radius.hold
        ),
        match spec.seed {
            Some(seed) => format!("  seed          {seed}"),
            None => "  seed          none: each run draws its own, so these are victims of seed 0 only".to_owned(),
        },
        format!("  in the name   of service account {}", plan.service_account),
    ];
    for permission in plan.permissions() {
        lines.push(match seen.permissions.get(&permission) {
            Some(Answer::Allowed) => format!("    may {permission}"),
            Some(Answer::Denied(why)) => {
                refused = true;
                let because = if why.is_empty() { String::new() } else { format!(" ({why})") };
                format!("    REFUSED: the service account {} may not {permission}{because}", plan.service_account)
            }
            None => format!("    not known whether it may {permission}: you may not ask that"),
        });
    }
    let chosen = choose(run, plan, seen);
    for (index, ((planned, written), chosen)) in plan.experiments.iter().zip(&spec.experiments).zip(chosen).enumerate() {
        lines.push(String::new());
        lines.push(format!("  {}. {}: {}, held {}", index + 1, planned.name, reports::fault(&written.fault), planned.hold));
        match chosen {
            Chosen::Targets { victims, candidates, before: _, sum } => {
                lines.push(format!("     {sum}:"));
                let answers =
                    seen.guarded.as_ref().map(|guarded| guarded.answers(run, index, &victims, candidates, &[], Timestamp::now()));
                let pods = victims.iter().filter_map(|victim| seen.pods.iter().find(|pod| pod.uid == victim.target.uid));
                // Pods of one workload say the same.
                let restarts: BTreeSet<String> = pods
                    .flat_map(|pod| {
                        liveness::restarts(planned, pod.containers.iter().map(|(name, _)| name.as_str()), &pod.liveness)
                    })
                    .collect();
                for victim in victims {
                    let node = victim.node.map(|node| format!(" on {node}")).unwrap_or_default();
                    lines.push(format!("     {}{node}  ({})", victim.target, victim.target.uid));
                }
                lines.extend(restarts.iter().map(|warning| format!("     warning: {warning}")));
                for answer in answers.into_iter().flatten() {
                    refused |= answer.says == Says::Refuse;
                    lines.push(format!("     {}", said(&answer)));
                }
            }
            Chosen::Wait(why) => lines.push(format!("     would wait: {why}")),
            Chosen::Refused(why) => {
                refused = true;
                lines.push(format!("     REFUSED: {why}"));
            }
        }
    }
    (lines, refused)
}

/// Whom each experiment would hit first.
fn choose(run: &Run, plan: &Admitted, seen: &Observation) -> Vec<Chosen> {
    let untouched = |name: &str| ExperimentStatus { name: name.to_owned(), ..ExperimentStatus::default() };
    let experiments: Vec<ExperimentStatus> = plan.experiments.iter().map(|planned| untouched(&planned.name)).collect();
    (0..experiments.len()).map(|index| guard::choose(run, plan, &experiments, index, 0, seen)).collect()
}

/// What a run is bound to.
fn bind(run: &Run, plan: &Admitted, seen: &Observation) -> Result<Bound, Failure> {
    if run.spec.game_day.seed.is_none() {
        return Err(Failure::invalid(
            "give the game day a seed: without one each run chooses other victims, and no plan can bind it",
        ));
    }
    let Some(guarded) = &seen.guarded else {
        return Err(Failure::alone("the guardrails could not be asked, and so the plan cannot be saved"));
    };
    let victims = plan.experiments.iter().zip(choose(run, plan, seen)).map(|(planned, chosen)| {
        let targets = match chosen {
            Chosen::Targets { victims, .. } => victims.iter().map(|victim| bound::name(&victim.target)).collect(),
            Chosen::Wait(_) | Chosen::Refused(_) => Vec::new(),
        };
        BoundVictims { experiment: planned.name.clone(), targets }
    });
    Ok(Bound { victims: victims.collect(), guardrails: bound::guardrails(&guarded.holding(run)) })
}

fn said(answer: &guardrail::Answer) -> String {
    let way_out = if answer.way_out.is_empty() { String::new() } else { format!(". Way out: {}", answer.way_out) };
    match answer.says {
        Says::Allow => format!("allowed: {answer}"),
        Says::Wait => format!("would wait: {answer}{way_out}"),
        Says::Refuse => format!("REFUSED: {answer}{way_out}"),
    }
}

/// Where the operator is, unless `install` was told otherwise.
const OPERATOR: &str = "gameday";

/// The game day as the run that it would be.
fn as_run(namespace: &str, game_day: &GameDay, plan: Admitted) -> Run {
    let spec = GameDayRunSpec {
        game_day_name: game_day.metadata.name.clone().unwrap_or_default(),
        scheduled_for: None,
        game_day: game_day.spec.clone(),
        stop: None,
        people: People::default(),
        bound: None,
    };
    let id = RunId { namespace: namespace.to_owned(), name: "RUN".to_owned(), uid: String::new() };
    Run { id, generation: 0, spec, plan: Ok(plan), status: GameDayRunStatus::default() }
}

/// What is to be said of cords: under one a run waits, and nothing else that is said here counts.
async fn pulled(client: &Client, namespace: &str) -> Option<String> {
    match ask(Api::<Cord>::all(client.clone()).list(&ListParams::default())).await {
        Ok(cords) => {
            let pulled = Pulled::over(&cords.items, namespace)?;
            Some(format!("  cord          would wait: {pulled}. Way out: gameday release {}", pulled.name))
        }
        Err(failure) => Some(format!("  cord          not asked: {failure}")),
    }
}

/// What guardrails are asked with, and the boards of those that the run needs a slot of; or why they cannot be asked.
async fn guarded(client: &Client, run: &Run) -> Result<(Option<Guarded>, Vec<String>), Failure> {
    let not_asked = |why: String| Ok((None, vec![String::new(), format!("  guardrails    not asked: {why}")]));
    let found = tokio::time::timeout(ANSWER, Api::<Guardrail>::all(client.clone()).list(&ListParams::default())).await;
    let found = match found {
        Ok(Ok(found)) => found.items,
        Ok(Err(error)) => return not_asked(error.to_string()),
        Err(_) => return not_asked("the API server did not answer".to_owned()),
    };
    let runs = match tokio::time::timeout(ANSWER, Api::<GameDayRun>::all(client.clone()).list(&ListParams::default())).await {
        Ok(Ok(runs)) => runs.items,
        Ok(Err(error)) => return not_asked(error.to_string()),
        Err(_) => return not_asked("the API server did not answer".to_owned()),
    };
    let inventory = Inventory::start(client);
    let begun = Instant::now();
    while !inventory.is_synced() {
        if begun.elapsed() > ANSWER {
            return not_asked(
                "with your rights the pods, nodes, workloads and budgets of all namespaces cannot be read".to_owned(),
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut picture = inventory.picture();
    picture.own_namespaces = [OPERATOR.to_owned(), agents_namespace(OPERATOR)].into();
    let runs: Vec<Run> = runs.into_iter().map(|run| record::loaded(run).run).collect();
    picture.in_force = runs.iter().flat_map(guarded::recorded).map(|recorded| recorded.hit(&picture)).collect();
    let guarded = Guarded {
        guardrails: Arc::new(found.iter().map(Named::of).collect()),
        picture: Arc::new(picture),
        passes: Arc::new(runs.iter().flat_map(guarded::passes).collect()),
    };
    let mut lines = vec![String::new()];
    for (name, limit) in guarded.slots(run) {
        let status = found.iter().find(|guardrail| guardrail.name_any() == name).and_then(|found| found.status.clone());
        let status = status.unwrap_or_default();
        let place = status.waiting.len() + 1;
        let free = status.runs.len() < limit && place == 1;
        let next = if free { "there is a slot".to_owned() } else { format!("it would be number {place} in the queue") };
        lines.push(format!("  guardrail     {name}: {} of {limit} runs under way: {next}", status.runs.len()));
    }
    Ok((Some(guarded), lines))
}

/// Reads what the plan is about.
async fn observe(client: &Client, namespace: &str, plan: &Admitted) -> Result<Observation, Failure> {
    let mut seen = Observation { synced: true, ..Observation::default() };
    let mut known = BTreeSet::new();
    for planned in &plan.experiments {
        match &planned.candidates {
            Candidates::Pods(selector) => {
                for pod in pods(client, namespace, selector).await? {
                    if known.insert(pod.uid.clone()) {
                        seen.pods.push(pod);
                    }
                }
            }
            Candidates::Nodes(_) if seen.nodes.is_empty() => {
                let nodes = ask(objects::nodes(client).list(&ListParams::default())).await?;
                seen.nodes = nodes.into_iter().map(objects::node_seen).collect();
            }
            Candidates::Nodes(_) => {}
            Candidates::Workload(workload) => {
                let found = ask(objects::workloads(client, namespace, workload.kind).get_opt(&workload.name)).await?;
                seen.workloads.insert(workload.clone(), found.as_ref().map(objects::workload_seen));
            }
        }
    }
    for permission in plan.permissions() {
        if let Some(answer) = may(client, namespace, &plan.service_account, &permission).await? {
            seen.permissions.insert(permission, answer);
        }
    }
    Ok(seen)
}

async fn pods(client: &Client, namespace: &str, selector: &Selector) -> Result<Vec<PodSeen>, Failure> {
    let labelled = ListParams::default().labels(&selector.to_string());
    Ok(ask(objects::pods(client, namespace).list(&labelled)).await?.into_iter().map(objects::pod_seen).collect())
}

/// Whether the service account may; `None` where this person may not ask.
async fn may(client: &Client, namespace: &str, account: &str, permission: &Permission) -> Result<Option<Answer>, Failure> {
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let review = permission::review(permission, namespace, account);
    let answer = match tokio::time::timeout(ANSWER, api.create(&PostParams::default(), &review)).await {
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => return Ok(None),
        Ok(answer) => answer?,
        Err(_) => return Err(Failure::alone("no answer from the cluster whether the service account may do it")),
    };
    let status = answer.status.unwrap_or_default();
    Ok(Some(if status.allowed { Answer::Allowed } else { Answer::Denied(status.reason.unwrap_or_default()) }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::source;

    #[test]
    fn a_container_that_the_kubelet_would_restart_is_told_once_below_its_victims() {
        let example = include_str!("../../examples/frozen-pod.yaml");
        let told = |hold: &str| {
            let text = example.replacen("hold: 15s", &format!("hold: {hold}"), 1).replacen("count: 1", "count: 2", 1);
            let text = text.replacen("targets: 1, percent: 34", "targets: 2, percent: 67", 1);
            let (game_day, plan) = source::with_game_day("it", text).unwrap().game_days.remove(0);
            let pods = (0..3).map(|number| {
                objects::pod_seen(
                    serde_json::from_value(json!({
                        "apiVersion": "v1", "kind": "Pod",
                        "metadata": {"name": format!("checkout-{number}"), "uid": format!("uid-{number}"), "labels": {"app": "checkout"}},
                        "spec": {"containers": [{"name": "shop", "livenessProbe": {"httpGet": {"path": "/"}, "periodSeconds": 5}}]},
                        "status": {
                            "conditions": [{"type": "Ready", "status": "True"}],
                            "containerStatuses": [{"name": "shop", "containerID": "a://b", "state": {"running": {}}}],
                        },
                    }))
                    .unwrap(),
                )
            });
            let seen = Observation { synced: true, pods: pods.collect(), ..Observation::default() };
            let (lines, _) = tell(&game_day.spec, &as_run("shop", &game_day, plan.clone()), &plan, &seen);
            let from = lines.iter().position(|line| line.contains("1. frozen")).unwrap();
            let to = lines.iter().position(|line| line.contains("2. killed")).unwrap();
            lines[from + 2..to - 1].to_vec()
        };
        assert_eq!(told("11s").len(), 2);
        let long = told("45s");
        assert!(long[..2].iter().all(|line| line.contains("Pod/checkout-")), "{long:?}");
        let warning = "     warning: the kubelet restarts container shop before the fault is over: its liveness probe is patient for \
                       11s to 16s (3 times 5s, timeout 1s), and the hold is 45s";
        assert_eq!(long[2..], [warning]);
    }
}
