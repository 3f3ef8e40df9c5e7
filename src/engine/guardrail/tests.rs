//! Tables of sums and words, and properties over random clusters, clocks and queues.

mod moment;
mod reach;
mod rules;
mod slots;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::*;
use crate::api::{Duration, Fault, FaultKind, GuardrailSpec};
use crate::engine::RunId;

/// A guardrail named staging that covers everything and says only this.
fn guardrail(yaml: &str) -> Named {
    let spec: GuardrailSpec = serde_saphyr::from_str(yaml).unwrap();
    check::check(&spec).unwrap();
    Named { name: "staging".to_owned(), spec }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn key(name: &str) -> WorkloadKey {
    WorkloadKey { namespace: "shop".to_owned(), kind: "Deployment".to_owned(), name: name.to_owned() }
}

/// Adds a Deployment in the namespace shop, its pods over two nodes in two zones, the first of them not ready.
fn add(picture: &mut Picture, name: &str, replicas: usize, not_ready: usize) {
    let pod_labels = labels(&[("app", name)]);
    picture.namespaces.entry("shop".to_owned()).or_default();
    picture.workloads.insert(key(name), WorkloadShown { replicas, pod_labels: pod_labels.clone(), rolling: None });
    for index in 0..replicas {
        picture.pods.push(PodShown {
            namespace: "shop".to_owned(),
            name: format!("{name}-{index}"),
            uid: format!("{name}-{index}"),
            labels: pod_labels.clone(),
            node: Some(format!("node{}", index % 2 + 1)),
            owner: Some(key(name)),
            ready: index >= not_ready,
            terminating: false,
            images: BTreeSet::from([format!("{name}:1")]),
        });
    }
}

fn two_nodes() -> Picture {
    let nodes = ["node1", "node2"].map(|name| NodeShown {
        name: name.to_owned(),
        uid: name.to_owned(),
        labels: BTreeMap::new(),
        zone: Some(format!("zone-{}", &name[4..])),
        ready: true,
        schedulable: true,
    });
    Picture { synced: true, nodes: nodes.into(), ..Picture::default() }
}

fn cluster(name: &str, replicas: usize, not_ready: usize) -> Picture {
    let mut picture = two_nodes();
    add(&mut picture, name, replicas, not_ready);
    picture
}

/// Faults that take these pods away.
fn kill(picture: &Picture, names: &[&str]) -> Vec<Hit> {
    let pod = |name: &&str| picture.pods.iter().find(|pod| pod.name == **name).unwrap();
    names.iter().map(|name| Picture::hit_pod(pod(name), Effect::TakesAway)).collect()
}

/// The last so many pods of a workload: those that are ready, where some are not.
fn kill_last(picture: &Picture, name: &str, count: usize) -> Vec<Hit> {
    let pods = picture.pods.iter().rev().filter(|pod| pod.owner == Some(key(name)));
    pods.take(count).map(|pod| Picture::hit_pod(pod, Effect::TakesAway)).collect()
}

fn run() -> RunId {
    RunId { namespace: "shop".to_owned(), name: "checkout-1".to_owned(), uid: "run".to_owned() }
}

/// Asks about a pod kill of these victims.
fn asked(guardrails: &[Named], picture: &Picture, victims: &[Hit], now: Timestamp) -> Vec<Answer> {
    let fault: Fault = serde_saphyr::from_str("{podKill: {gracePeriod: 0s}}").unwrap();
    let asked = Asked {
        run: &run(),
        game_day: "checkout",
        experiment: "lose-a-pod",
        kind: FaultKind::PodKill,
        fault: &fault,
        hold: Duration::from_secs(30),
        victims,
        candidates: picture.pods.len(),
        approvals: &[],
        passes: &[],
        stage: Stage::Starting,
    };
    ask(guardrails, picture, &asked, now)
}

fn ask_now(guardrails: &[Named], picture: &Picture, victims: &[Hit]) -> Vec<Answer> {
    asked(guardrails, picture, victims, time("2026-11-24T12:00:00Z"))
}
