//! What a run would do if it started now: asked of the cluster, decided by the engine, and nothing touched.

use std::collections::BTreeSet;

use clap::Args;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

use crate::api::{ExperimentStatus, GameDaySpec, Selector};
use crate::cluster::{objects, permission};
use crate::engine::admit::{Candidates, Plan as Admitted};
use crate::engine::guard::{self, Chosen};
use crate::engine::{self, Answer, Observation, Permission, PodSeen};
use crate::report as reports;

use super::connect::{ANSWER, ask};
use super::{Cluster, Exit, Failure, Output, run};

/// Say what a run would do now: its exact victims, and what would be refused
#[derive(Debug, Args)]
pub struct Plan {
    /// A YAML file with one game day, or the name of one in the cluster
    #[arg(value_name = "FILE|NAME")]
    what: String,
}

impl Plan {
    pub async fn run(self, cluster: &Cluster, output: &mut Output) -> Result<Exit, Failure> {
        let (connection, game_day, _) = run::find(&self.what, cluster).await?;
        let namespace = connection.namespace(game_day.metadata.namespace.as_deref()).to_owned();
        let plan = engine::admit::admit(&game_day.spec).map_err(Failure::refused)?;
        let seen = observe(&connection.client, &namespace, &plan).await?;
        let (lines, refused) = tell(&game_day.spec, &plan, &seen);
        output.line(format!("{namespace}/{}", game_day.metadata.name.as_deref().unwrap_or_default()))?;
        for line in lines {
            output.line(line)?;
        }
        Ok(if refused { Exit::Refused } else { Exit::Passed })
    }
}

/// The plan in lines, and whether any of it would be refused.
fn tell(spec: &GameDaySpec, plan: &Admitted, seen: &Observation) -> (Vec<String>, bool) {
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
    let experiments: Vec<ExperimentStatus> = plan
        .experiments
        .iter()
        .map(|planned| ExperimentStatus { name: planned.name.clone(), ..ExperimentStatus::default() })
        .collect();
    for (index, (planned, written)) in plan.experiments.iter().zip(&spec.experiments).enumerate() {
        lines.push(String::new());
        lines.push(format!("  {}. {}: {}, held {}", index + 1, planned.name, reports::fault(&written.fault), planned.hold));
        match guard::choose(plan, &experiments, index, 0, seen) {
            Chosen::Targets { victims, candidates: _, before: _, sum } => {
                lines.push(format!("     {sum}:"));
                for victim in victims {
                    let node = victim.node.map(|node| format!(" on {node}")).unwrap_or_default();
                    lines.push(format!("     {}{node}  ({})", victim.target, victim.target.uid));
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
