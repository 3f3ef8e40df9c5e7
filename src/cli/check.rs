use clap::Args;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::cluster::objects::PodSpec;
use crate::engine::admit::Candidates;
use crate::engine::{Plan, liveness};

use super::source::{self, Contents};
use super::{Exit, Failure, Output};

/// Say everything that is wrong with game days and guardrails in files, without a cluster
#[derive(Debug, Args)]
pub struct Check {
    /// YAML files, one or more documents each; - reads standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

impl Check {
    pub fn run(self, output: &mut Output) -> Result<Exit, Failure> {
        let mut exit = Exit::Passed;
        for file in &self.files {
            match source::read_ours(file) {
                Ok(contents) => tell(file, &contents, output)?,
                Err(complaints) => exit = Failure::from(complaints).tell(),
            }
        }
        Ok(exit)
    }
}

fn tell(file: &str, contents: &Contents, output: &mut Output) -> Result<(), Failure> {
    for (game_day, plan) in &contents.game_days {
        let name = game_day.metadata.name.as_deref().unwrap_or_default();
        let experiments: Vec<&str> = plan.experiments.iter().map(|experiment| experiment.name.as_str()).collect();
        output.line(format!("{file}: {name} is sound: {}", experiments.join(", ")))?;
        for warning in warnings(plan, &contents.others) {
            output.line(format!("{file}: warning: {warning}"))?;
        }
    }
    for object in contents.others.iter().filter(|object| source::is_ours(object)) {
        let text = |field: &serde_json::Value| field.as_str().unwrap_or_default().to_owned();
        output.line(format!("{file}: {} {} is sound", text(&object["kind"]), text(&object["metadata"]["name"])))?;
    }
    Ok(())
}

/// What the workloads beside a game day let expect of it: containers that the kubelet would restart under a fault.
pub fn warnings(plan: &Plan, others: &[Json]) -> Vec<String> {
    let mut all = Vec::new();
    for planned in &plan.experiments {
        let Candidates::Pods(selector) = &planned.candidates else { continue };
        for workload in others {
            let template = &workload["spec"]["template"];
            let labels = Deserialize::deserialize(&template["metadata"]["labels"]).unwrap_or_default();
            let Ok(pod) = PodSpec::deserialize(&template["spec"]) else { continue };
            if selector.matches(&labels) {
                let restarts = liveness::restarts(planned, pod.containers(), &pod.liveness());
                all.extend(restarts.into_iter().map(|restart| format!("{}: {restart}", planned.name)));
            }
        }
    }
    all
}
