//! What is done to the cluster for a fault, one call a function. Nothing here chooses: every target comes with
//! its uid, and an object with another uid is never touched.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::response::Status;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::api::{
    ANNOTATION_FENCE, Duration, LABEL_HELD_BY, LABEL_HELD_FOR_NAME, LABEL_HELD_FOR_NAMESPACE, LABEL_SET_REPLICAS,
    LABEL_UNDO_REPLICAS, TargetKind, WorkloadKind,
};
use crate::engine::{Action, Outcome, RunId, TargetId, What};
use crate::turn::Trouble;

use super::client::{Error, FIELD_MANAGER, ask};
use super::injections;
use super::objects::{self, Node, Workload};

/// A write that lost against another's is read and decided again so many times: a controller that is counting
/// replicas writes a few times a second.
const TRIES: usize = 5;

/// With what is done: the way to the API server, and whether this process may still act.
#[derive(Clone, Copy)]
pub struct Hands<'a> {
    pub client: &'a Client,
    /// The namespace of agents and their orders.
    pub agents: &'a str,
    /// Asked again right before a write that follows a read: this process may have been stopped between the two.
    pub may_act: &'a (dyn Fn() -> bool + Send + Sync),
}

/// Does one thing.
pub async fn perform(hands: Hands<'_>, run: &RunId, action: &Action) -> Outcome {
    let Action { experiment, target, what, latest_end: _ } = action;
    match what {
        What::Order(order) => return injections::order(hands, run, experiment, target, order, false).await,
        What::Revoke(order) => return injections::order(hands, run, experiment, target, order, true).await,
        _ => {}
    }
    act(hands, run, target, what).await
}

/// The same without an experiment: for the sweep.
pub async fn act(hands: Hands<'_>, run: &RunId, target: &TargetId, what: &What) -> Outcome {
    let client = hands.client;
    let done = match what {
        What::Kill { grace_period } => kill(client, run, target, *grace_period).await,
        What::Evict => evict(client, run, target).await,
        What::Scale { from, to } => scale(hands, run, target, *from, *to).await,
        What::Cordon => cordon(hands, run, target).await,
        What::Unscale { set, back } => unscale(hands, run, target, *set, *back).await,
        What::Uncordon => uncordon(hands, run, target).await,
        What::Order(_) | What::Revoke(_) => Ok(Outcome::Refused("orders are for an experiment".to_owned())),
    };
    done.unwrap_or_else(outcome)
}

/// What a call that brought nothing means.
pub fn outcome(error: Error) -> Outcome {
    match error {
        // Nothing was done, and asking again in the same second is what the API server asks us not to do.
        Error::Refused(status) if status.code == 429 => Outcome::Failed(status.message),
        Error::Refused(_) => Outcome::Refused(error.in_words()),
        Error::Unclear(said) => Outcome::Failed(said),
    }
}

async fn kill(client: &Client, run: &RunId, target: &TargetId, grace_period: Option<Duration>) -> Result<Outcome, Error> {
    let params = DeleteParams {
        // Whole seconds, rounded up: nobody gets less time than was promised.
        grace_period_seconds: grace_period
            .map(|grace_period| u32::try_from(grace_period.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)),
        preconditions: Some(Preconditions { uid: Some(target.uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    match ask(objects::pods(client, &run.namespace).delete(&target.name, &params)).await {
        Ok(_) => Ok(Outcome::Done),
        Err(error) => gone_or(client, run, target, error).await,
    }
}

async fn evict(client: &Client, run: &RunId, target: &TargetId) -> Result<Outcome, Error> {
    // Not `Api::evict`: kube 5.0 writes `delete_options`, which the API server does not know, and so drops the
    // precondition.
    let eviction = Eviction {
        metadata: meta::ObjectMeta { name: Some(target.name.clone()), ..meta::ObjectMeta::default() },
        delete_options: Some(meta::DeleteOptions {
            preconditions: Some(meta::Preconditions { uid: Some(target.uid.clone()), resource_version: None }),
            ..meta::DeleteOptions::default()
        }),
    };
    let pods = objects::pods(client, &run.namespace);
    let params = PostParams::default();
    match ask(pods.create_subresource::<_, Status>("eviction", &target.name, &params, &eviction)).await {
        Ok(_) => Ok(Outcome::Done),
        Err(Error::Refused(status)) if names_a_budget(&status) => Ok(Outcome::Refused(Error::Refused(status).in_words())),
        Err(error) => gone_or(client, run, target, error).await,
    }
}

fn names_a_budget(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 429 && causes.any(|cause| cause.reason == "DisruptionBudget")
}

/// Done, if the pod of this uid is gone; else the error.
async fn gone_or(client: &Client, run: &RunId, target: &TargetId, error: Error) -> Result<Outcome, Error> {
    if error.is_not_found() {
        return Ok(Outcome::Done);
    }
    if !error.is_conflict() {
        return Err(error);
    }
    // Another uid has the name, or the pod was being written.
    if uid_of(client, &run.namespace, &target.name).await?.as_ref() != Some(&target.uid) {
        Ok(Outcome::Done)
    } else {
        Ok(Outcome::Failed(error.in_words()))
    }
}

/// The uid of the pod that has this name now, by a read of its own. `None`: nobody has it.
pub async fn uid_of(client: &Client, namespace: &str, name: &str) -> Result<Option<String>, Error> {
    Ok(ask(objects::pods(client, namespace).get_metadata_opt(name)).await?.and_then(|pod| pod.metadata.uid))
}

/// The uids of all pods of a namespace as they are now.
pub async fn uids(client: &Client, namespace: &str) -> Result<HashSet<String>, Error> {
    // Without a resource version: not from a cache that may be older than the fault.
    let found = ask(objects::pods(client, namespace).list_metadata(&ListParams::default())).await?;
    Ok(found.into_iter().filter_map(|pod| pod.metadata.uid).collect())
}

async fn scale(hands: Hands<'_>, run: &RunId, target: &TargetId, from: i32, to: i32) -> Result<Outcome, Error> {
    let Some(api) = workloads(hands.client, run, target) else { return Ok(not_a_workload(target)) };
    patch(hands, &api, target, |workload| {
        let is = objects::replicas(workload);
        match holder(workload.labels(), run) {
            Held::Us if label(workload, LABEL_SET_REPLICAS) == Some(to) => Decision::Done,
            Held::Us => Decision::Refused(format!("another experiment of this run holds {target}")),
            Held::Another(other) => Decision::Refused(format!("{other} holds {target}")),
            Held::Nobody if is != from => {
                Decision::Refused(format!("{target} has {is} replicas now, not {from} as when it was chosen"))
            }
            Held::Nobody => {
                let mut labels = held_labels(run);
                labels.insert(LABEL_UNDO_REPLICAS, json!(from.to_string()));
                labels.insert(LABEL_SET_REPLICAS, json!(to.to_string()));
                Decision::Write { labels, fence: Value::Null, spec: json!({"replicas": to}) }
            }
        }
    })
    .await
    .map(|outcome| outcome.unwrap_or_else(|| Outcome::Refused(format!("{target} is gone"))))
}

async fn unscale(hands: Hands<'_>, run: &RunId, target: &TargetId, set: i32, back: i32) -> Result<Outcome, Error> {
    let Some(api) = workloads(hands.client, run, target) else { return Ok(not_a_workload(target)) };
    patch(hands, &api, target, |workload| match holder(workload.labels(), run) {
        Held::Another(_) => Decision::Done,
        Held::Nobody => fence(workload.annotations(), run),
        Held::Us => {
            let mut labels = no_labels();
            labels.extend([(LABEL_UNDO_REPLICAS, Value::Null), (LABEL_SET_REPLICAS, Value::Null)]);
            // Replicas that somebody has changed since are theirs.
            let spec = if objects::replicas(workload) == set { json!({"replicas": back}) } else { json!({}) };
            Decision::Write { labels, fence: Value::Null, spec }
        }
    })
    .await
    .map(|outcome| outcome.unwrap_or(Outcome::Done))
}

async fn cordon(hands: Hands<'_>, run: &RunId, target: &TargetId) -> Result<Outcome, Error> {
    patch(hands, &objects::nodes(hands.client), target, |node: &Node| match holder(node.labels(), run) {
        Held::Us => Decision::Done,
        Held::Another(other) => Decision::Refused(format!("{other} holds {target}")),
        Held::Nobody if node.spec.unschedulable => Decision::Refused(format!("somebody else has cordoned {target}")),
        Held::Nobody => Decision::Write { labels: held_labels(run), fence: Value::Null, spec: json!({"unschedulable": true}) },
    })
    .await
    .map(|outcome| outcome.unwrap_or_else(|| Outcome::Refused(format!("{target} is gone"))))
}

async fn uncordon(hands: Hands<'_>, run: &RunId, target: &TargetId) -> Result<Outcome, Error> {
    patch(hands, &objects::nodes(hands.client), target, |node: &Node| match holder(node.labels(), run) {
        Held::Another(_) => Decision::Done,
        Held::Nobody => fence(node.annotations(), run),
        Held::Us => Decision::Write { labels: no_labels(), fence: Value::Null, spec: json!({"unschedulable": null}) },
    })
    .await
    .map(|outcome| outcome.unwrap_or(Outcome::Done))
}

/// What is to become of an object, as it is now.
enum Decision {
    Done,
    Refused(String),
    Write { labels: BTreeMap<&'static str, Value>, fence: Value, spec: Value },
}

/// Nothing is held, and the fault's own write may still be on its way, from an operator that was stopped between its
/// read and its write. It names the version that it read; after this write no object has that version any more.
fn fence(annotations: &BTreeMap<String, String>, run: &RunId) -> Decision {
    if annotations.get(ANNOTATION_FENCE) == Some(&run.uid) {
        return Decision::Done;
    }
    Decision::Write { labels: BTreeMap::new(), fence: json!(run.uid), spec: json!({}) }
}

/// Reads, decides, and writes labels and spec in one write that fails if the object has changed since.
/// `None`: the object is gone.
async fn patch<K>(
    hands: Hands<'_>,
    api: &Api<K>,
    target: &TargetId,
    decide: impl Fn(&K) -> Decision,
) -> Result<Option<Outcome>, Error>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let mut lost = String::new();
    for _ in 0..TRIES {
        let Some(object) = ask(api.get_opt(&target.name)).await? else { return Ok(None) };
        if object.meta().uid.as_deref() != Some(target.uid.as_str()) {
            return Ok(None);
        }
        let (labels, fence, spec) = match decide(&object) {
            Decision::Done => return Ok(Some(Outcome::Done)),
            Decision::Refused(why) => return Ok(Some(Outcome::Refused(why))),
            Decision::Write { labels, fence, spec } => (labels, fence, spec),
        };
        if !(hands.may_act)() {
            return Ok(Some(Outcome::Failed(Trouble::NotLeading.to_string())));
        }
        let change = json!({
            "metadata": {
                "uid": target.uid,
                "resourceVersion": object.resource_version(),
                "labels": labels,
                "annotations": {ANNOTATION_FENCE: fence},
            },
            "spec": spec,
        });
        match ask(api.patch(&target.name, &params, &Patch::Merge(change))).await {
            Ok(_) => return Ok(Some(Outcome::Done)),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) if error.is_conflict() => lost = error.in_words(),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Outcome::Failed(format!("{target} was written by somebody else {TRIES} times: {lost}"))))
}

fn workloads(client: &Client, run: &RunId, target: &TargetId) -> Option<Api<Workload>> {
    let kind = match target.kind {
        TargetKind::Deployment => WorkloadKind::Deployment,
        TargetKind::StatefulSet => WorkloadKind::StatefulSet,
        TargetKind::Pod | TargetKind::Node => return None,
    };
    Some(objects::workloads(client, &run.namespace, kind))
}

fn not_a_workload(target: &TargetId) -> Outcome {
    Outcome::Refused(format!("{target} has no replicas"))
}

/// Whose an object is, by its labels.
enum Held {
    Nobody,
    Us,
    Another(String),
}

fn holder(labels: &BTreeMap<String, String>, run: &RunId) -> Held {
    match labels.get(LABEL_HELD_BY) {
        None => Held::Nobody,
        Some(uid) if *uid == run.uid => Held::Us,
        Some(uid) => {
            let named = |label| labels.get(label).map_or("?", String::as_str);
            Held::Another(format!("run {}/{} ({uid})", named(LABEL_HELD_FOR_NAMESPACE), named(LABEL_HELD_FOR_NAME)))
        }
    }
}

fn label(workload: &Workload, name: &str) -> Option<i32> {
    workload.labels().get(name)?.parse().ok()
}

fn held_labels(run: &RunId) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        (LABEL_HELD_BY, json!(run.uid)),
        (LABEL_HELD_FOR_NAMESPACE, json!(run.namespace)),
        (LABEL_HELD_FOR_NAME, json!(run.name)),
    ])
}

fn no_labels() -> BTreeMap<&'static str, Value> {
    [LABEL_HELD_BY, LABEL_HELD_FOR_NAMESPACE, LABEL_HELD_FOR_NAME].map(|name| (name, Value::Null)).into()
}
