//! A cluster from the documents of a file, and from what they leave out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use crate::api::{Duration, Experiment, GameDaySpec, Percent, Selector, WorkloadKind, WorkloadRef};

use super::cluster::{Amount, Behaviour, Budget, BudgetLimit, Cluster};
use super::misfortune::Planned;
use super::sampler::host_of;

/// Replicas of a workload that is invented: the fewest of which one may be lost and two are left.
const REPLICAS: i32 = 3;

/// How the pretended cluster behaves: a document of kind `Rehearsal` in the same file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Script {
    pub api_version: Option<String>,
    pub kind: String,
    pub metadata: Option<Value>,
    pub seed: Option<u64>,
    /// Of a workload's pods, by its name.
    pub apps: BTreeMap<String, App>,
    /// Probes that see nothing for a while.
    pub blind: Vec<BlindFor>,
    /// Permissions that are denied, as `delete pods`.
    pub deny: Vec<String>,
    pub misfortunes: Vec<Planned>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct App {
    pub start: Option<Duration>,
    pub shutdown: Option<Duration>,
    pub ignores_sigterm: bool,
    pub latency: Option<Duration>,
    pub slow_after_loss: Option<Slow>,
    pub down: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slow {
    pub latency: Duration,
    pub length: Duration,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlindFor {
    pub probe: String,
    pub from: Duration,
    pub until: Duration,
}

/// Finds the `Rehearsal` document, or its defaults.
///
/// # Errors
/// In a sentence, what of it cannot be understood.
pub fn script(documents: &[Value]) -> Result<Script, String> {
    let found = documents.iter().find(|document| kind(document) == "Rehearsal");
    let script: Script = match found {
        None => return Ok(Script::default()),
        Some(document) => Script::deserialize(document).map_err(|problem| format!("the Rehearsal document: {problem}"))?,
    };
    for planned in &script.misfortunes {
        if planned.at.is_some() == planned.call.is_some() {
            return Err(format!(
                "the Rehearsal document: a misfortune is either `at` a time or at a `call`: {}",
                planned.what.words()
            ));
        }
    }
    Ok(script)
}

/// Fills the cluster. Gives a sentence for each thing that was made up.
///
/// # Errors
/// In a sentence, what of a document cannot be understood.
pub fn build(cluster: &mut Cluster, spec: &GameDaySpec, documents: &[Value], script: &Script) -> Result<Vec<String>, String> {
    let mut invented = Vec::new();
    for document in documents.iter().filter(|document| kind(document) == "Node") {
        let cordoned = document["spec"]["unschedulable"].as_bool().unwrap_or(false);
        cluster.add_node(&name(document)?, labels(&document["metadata"]["labels"]), !cordoned);
    }
    if cluster.nodes.is_empty() {
        invent_nodes(cluster, &spec.experiments, &mut invented);
    }
    for document in documents {
        match kind(document) {
            "Deployment" => workload(cluster, document, WorkloadKind::Deployment, script)?,
            "StatefulSet" => workload(cluster, document, WorkloadKind::StatefulSet, script)?,
            "Service" => {
                let selector = labels(&document["spec"]["selector"]);
                cluster.services.insert(name(document)?, selector);
            }
            "PodDisruptionBudget" => cluster.budgets.push(budget(document)?),
            _ => {}
        }
    }
    invent_workloads(cluster, spec, script, &mut invented);
    Ok(invented)
}

fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap_or_default()
}

fn name(document: &Value) -> Result<String, String> {
    let found = document["metadata"]["name"].as_str().map(str::to_owned);
    found.ok_or_else(|| format!("a {} has no metadata.name", kind(document)))
}

fn labels(written: &Value) -> BTreeMap<String, String> {
    let pairs = written.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn workload(cluster: &mut Cluster, document: &Value, kind: WorkloadKind, script: &Script) -> Result<(), String> {
    let of = WorkloadRef { kind, name: name(document)? };
    let spec = &document["spec"];
    let replicas = spec["replicas"].as_i64().and_then(|replicas| i32::try_from(replicas).ok()).unwrap_or(1);
    let template = labels(&spec["template"]["metadata"]["labels"]);
    let labels = if template.is_empty() { BTreeMap::from([("app".to_owned(), of.name.clone())]) } else { template };
    let mut behaviour = behaviour(script, &of.name);
    if let Some(seconds) = spec["template"]["spec"]["terminationGracePeriodSeconds"].as_u64() {
        behaviour.grace = Duration::from_secs(seconds);
    }
    cluster.add_workload(&of, replicas, labels, behaviour);
    Ok(())
}

fn behaviour(script: &Script, name: &str) -> Behaviour {
    let default = Behaviour::default();
    let Some(app) = script.apps.get(name) else { return default };
    Behaviour {
        start: app.start.unwrap_or(default.start),
        shutdown: app.shutdown.unwrap_or(default.shutdown),
        grace: default.grace,
        ignores_sigterm: app.ignores_sigterm,
        latency: app.latency.unwrap_or(default.latency),
        slow_after_loss: app.slow_after_loss.as_ref().map(|slow| (slow.latency, slow.length)),
        down: app.down,
    }
}

fn budget(document: &Value) -> Result<Budget, String> {
    let name = name(document)?;
    let selector = Selector::deserialize(&document["spec"]["selector"])
        .map_err(|problem| format!("PodDisruptionBudget {name}: spec.selector: {problem}"))?;
    let amount = |written: &Value| match (written.as_u64(), written.as_str()) {
        (Some(count), _) => usize::try_from(count).ok().map(Amount::Count),
        (None, Some(text)) => {
            text.strip_suffix('%').and_then(|number| Percent::new(number.parse().ok()?).ok()).map(Amount::Percent)
        }
        (None, None) => None,
    };
    let spec = &document["spec"];
    let limit = match (amount(&spec["minAvailable"]), amount(&spec["maxUnavailable"])) {
        (Some(least), _) => BudgetLimit::MinAvailable(least),
        (None, Some(most)) => BudgetLimit::MaxUnavailable(most),
        (None, None) => return Err(format!("PodDisruptionBudget {name}: minAvailable or maxUnavailable is missing")),
    };
    Ok(Budget { name, selector, limit })
}

/// Three nodes in three zones, with every label that an experiment looks for.
fn invent_nodes(cluster: &mut Cluster, experiments: &[Experiment], invented: &mut Vec<String>) {
    let wanted: Vec<BTreeMap<String, String>> =
        experiments.iter().filter_map(|experiment| Some(satisfying(experiment.targets.nodes.as_ref()?))).collect();
    for (node, zone) in [("node-1", "a"), ("node-2", "b"), ("node-3", "c")] {
        let mut labels = BTreeMap::from([
            ("kubernetes.io/hostname".to_owned(), node.to_owned()),
            ("topology.kubernetes.io/zone".to_owned(), zone.to_owned()),
        ]);
        for wanted in &wanted {
            for (key, value) in wanted {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        cluster.add_node(node, labels, true);
    }
    invented.push("three nodes in three zones: node-1, node-2, node-3".to_owned());
}

/// Labels that a selector matches, as far as that can be said.
fn satisfying(selector: &Selector) -> BTreeMap<String, String> {
    use crate::api::Operator;
    let mut labels = selector.match_labels.clone();
    for expression in &selector.match_expressions {
        let value = match expression.operator {
            Operator::In => expression.values.first().cloned(),
            Operator::Exists => Some("yes".to_owned()),
            Operator::NotIn | Operator::DoesNotExist => None,
        };
        if let Some(value) = value {
            labels.entry(expression.key.clone()).or_insert(value);
        }
    }
    labels
}

/// Whom the game day speaks of and the file does not bring along.
fn invent_workloads(cluster: &mut Cluster, spec: &GameDaySpec, script: &Script, invented: &mut Vec<String>) {
    let mut asked: BTreeSet<WorkloadRef> = BTreeSet::new();
    asked.extend(spec.steady_state.iter().filter_map(|probe| probe.workload.clone()));
    asked.extend(spec.experiments.iter().filter_map(|experiment| experiment.targets.workload.clone()));
    for of in asked {
        invent(cluster, &of, BTreeMap::from([("app".to_owned(), of.name.clone())]), script, invented);
    }
    for experiment in &spec.experiments {
        let Some(pods) = &experiment.targets.pods else { continue };
        let exist = cluster.pods.values().any(|pod| pods.matches(&pod.labels));
        if !exist {
            let labels = satisfying(pods);
            let name = ["app", "app.kubernetes.io/name", "app.kubernetes.io/instance", "name"]
                .iter()
                .find_map(|key| labels.get(*key).cloned())
                .or_else(|| labels.values().next().cloned())
                .unwrap_or_else(|| experiment.name.clone());
            let of = WorkloadRef { kind: WorkloadKind::Deployment, name };
            invent(cluster, &of, labels, script, invented);
        }
    }
    for probe in &spec.steady_state {
        let host = match (&probe.http, &probe.tcp) {
            (Some(http), _) => host_of(&http.url),
            (None, Some(tcp)) => tcp.address.rsplit_once(':').map_or("", |(host, _)| host).to_owned(),
            (None, None) => continue,
        };
        let name = host.split('.').next().unwrap_or(&host).to_owned();
        if !cluster.knows(&name) {
            let of = WorkloadRef { kind: WorkloadKind::Deployment, name: name.clone() };
            invent(cluster, &of, BTreeMap::from([("app".to_owned(), name)]), script, invented);
        }
    }
}

fn invent(
    cluster: &mut Cluster,
    of: &WorkloadRef,
    labels: BTreeMap<String, String>,
    script: &Script,
    invented: &mut Vec<String>,
) {
    if cluster.workloads.contains_key(of) {
        return;
    }
    let shown: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    invented.push(format!("{of} with {REPLICAS} replicas, labelled {}", shown.join(",")));
    cluster.add_workload(of, REPLICAS, labels, behaviour(script, &of.name));
}
