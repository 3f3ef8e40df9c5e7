//! Finds what is still held for a run that does not hold it any more, by its labels, and undoes it.

use k8s_openapi::api::{apps::v1::Deployment, apps::v1::StatefulSet, core::v1::Node};
use kube::api::{Api, ListParams, PartialObjectMeta};
use kube::{Client, Resource, ResourceExt};

use crate::api::{
    GameDayRun, LABEL_HELD_BY, LABEL_HELD_FOR_NAME, LABEL_HELD_FOR_NAMESPACE, LABEL_SET_REPLICAS, LABEL_UNDO_REPLICAS, TargetKind,
};
use crate::engine::{Outcome, RunId, TargetId, What};

use super::client::{Error, ask};
use super::hands::{self, Hands};
use super::leader::Leader;
use super::{injections, slots};

/// One object that carries a run's labels.
struct HeldObject {
    run: RunId,
    target: TargetId,
    what: What,
}

/// Undoes what is held for runs that are finished or do not exist. Returns how much that was.
///
/// # Errors
/// The API server did not answer, or refused; what was not reached is for the next sweep.
pub async fn sweep(client: &Client, agents: &str, leader: &Leader) -> Result<usize, Error> {
    let mut held = Vec::new();
    held.extend(labelled::<Deployment>(client).await?.iter().filter_map(|object| workload(object, TargetKind::Deployment)));
    held.extend(labelled::<StatefulSet>(client).await?.iter().filter_map(|object| workload(object, TargetKind::StatefulSet)));
    held.extend(labelled::<Node>(client).await?.iter().filter_map(|object| {
        let run = holder(object, object.labels().get(LABEL_HELD_FOR_NAMESPACE)?)?;
        Some(HeldObject { run, target: target(object, TargetKind::Node), what: What::Uncordon })
    }));
    slots::sweep(client).await?;
    let mut undone = injections::sweep(client, agents).await?;
    for HeldObject { run, target, what } in held {
        if holds(client, &run).await? || !leader.is_valid() {
            continue;
        }
        let may_act = || leader.is_valid();
        let outcome = hands::act(Hands { client, agents, may_act: &may_act }, &run, &target, &what).await;
        let (namespace, name) = (&run.namespace, &run.name);
        match outcome {
            Outcome::Done => {
                undone += 1;
                tracing::info!(run = %name, %namespace, %target, "undone what a run had left behind");
            }
            Outcome::Refused(why) | Outcome::Failed(why) => {
                tracing::warn!(run = %name, %namespace, %target, why, "what a run left behind could not be undone; it is tried again");
            }
        }
    }
    Ok(undone)
}

async fn labelled<K>(client: &Client) -> Result<Vec<PartialObjectMeta<K>>, Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    Ok(ask(api.list_metadata(&ListParams::default().labels(LABEL_HELD_BY).match_any())).await?.items)
}

fn workload<K>(object: &PartialObjectMeta<K>, kind: TargetKind) -> Option<HeldObject>
where
    PartialObjectMeta<K>: ResourceExt,
{
    let number = |label: &str| object.labels().get(label)?.parse().ok();
    let run = holder(object, &object.namespace()?)?;
    let (Some(set), Some(back)) = (number(LABEL_SET_REPLICAS), number(LABEL_UNDO_REPLICAS)) else {
        tracing::warn!(
            name = object.name_any(),
            namespace = object.namespace(),
            "held, and its labels do not say what to go back to"
        );
        return None;
    };
    Some(HeldObject { run, target: target(object, kind), what: What::Unscale { set, back } })
}

/// Whose an object is. A workload's run is in the workload's own namespace, whatever its labels say.
fn holder(object: &impl ResourceExt, namespace: &str) -> Option<RunId> {
    let label = |name: &str| object.labels().get(name).cloned();
    Some(RunId { namespace: namespace.to_owned(), name: label(LABEL_HELD_FOR_NAME)?, uid: label(LABEL_HELD_BY)? })
}

fn target(object: &impl ResourceExt, kind: TargetKind) -> TargetId {
    TargetId { kind, name: object.name_any(), uid: object.uid().unwrap_or_default() }
}

/// Whether this run still holds what is labelled as its own: it exists, and is not finished.
pub(super) async fn holds(client: &Client, run: &RunId) -> Result<bool, Error> {
    let api: Api<GameDayRun> = Api::namespaced(client.clone(), &run.namespace);
    let found = ask(api.get_opt(&run.name)).await?;
    Ok(found.is_some_and(|found| found.uid().as_deref() == Some(run.uid.as_str()) && !found.is_finished()))
}
