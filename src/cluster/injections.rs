//! Orders to nodes: written here, read by agents.

use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::api::{
    Aim, Duration, Injection, InjectionSpec, LABEL_HELD_BY, LABEL_HELD_FOR_NAME, LABEL_HELD_FOR_NAMESPACE, PodRef, RunRef,
};
use crate::engine::held::Order;
use crate::engine::{Outcome, RunId, TargetId};
use crate::turn::Trouble;

use super::aim;
use super::client::{Error, FIELD_MANAGER, ask};
use super::hands::{self, Hands};
use super::sweep;

/// An order that its node has written between a read and a write is read again so many times.
const TRIES: usize = 5;

/// Creates the order, or one that is revoked from the start. Where there is one, only `revert` is set.
pub async fn order(hands: Hands<'_>, run: &RunId, experiment: &str, target: &TargetId, order: &Order, revert: bool) -> Outcome {
    give(hands, run, experiment, target, order, revert).await.unwrap_or_else(hands::outcome)
}

async fn give(
    hands: Hands<'_>,
    run: &RunId,
    experiment: &str,
    target: &TargetId,
    order: &Order,
    revert: bool,
) -> Result<Outcome, Error> {
    let Hands { client, agents, may_act } = hands;
    let api: Api<Injection> = Api::namespaced(client.clone(), agents);
    if revert && self::revert(&api, &order.name).await? {
        return Ok(Outcome::Done);
    }
    let aim = match &order.fault.network {
        Some(network) if !revert => Some(aim::read(client, &run.namespace, network).await?),
        Some(_) | None => None,
    };
    let spec = InjectionSpec {
        run: RunRef { namespace: run.namespace.clone(), name: run.name.clone(), uid: run.uid.clone() },
        experiment: experiment.to_owned(),
        node: order.node.clone(),
        pod: PodRef { namespace: run.namespace.clone(), name: target.name.clone(), uid: target.uid.clone() },
        container: order.container.as_ref().map(|(_, id)| id.clone()),
        container_name: order.container.as_ref().map(|(name, _)| name.clone()),
        on_restart: order.on_restart,
        fault: order.fault.clone(),
        aim,
        hold: order.hold.max(Duration::from_secs(1)),
        seed: i64::try_from(order.seed).unwrap_or(i64::MAX),
        revert,
    };
    let labels = [
        (LABEL_HELD_BY, run.uid.clone()),
        (LABEL_HELD_FOR_NAMESPACE, run.namespace.clone()),
        (LABEL_HELD_FOR_NAME, run.name.clone()),
    ];
    let metadata = ObjectMeta {
        name: Some(order.name.clone()),
        labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ..ObjectMeta::default()
    };
    if !may_act() {
        return Ok(Outcome::Failed(Trouble::NotLeading.to_string()));
    }
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match ask(api.create(&params, &Injection { metadata, spec, status: None })).await {
        Ok(_) => Ok(Outcome::Done),
        Err(error) if error.is_already_exists() && revert => {
            self::revert(&api, &order.name).await?;
            Ok(Outcome::Done)
        }
        Err(error) if error.is_already_exists() => Ok(Outcome::Done),
        Err(error) => Err(error),
    }
}

/// Whether there was one to revert.
///
/// # Errors
/// As the API server has it.
pub async fn revert(api: &Api<Injection>, name: &str) -> Result<bool, Error> {
    let change = json!({"spec": {"revert": true}});
    match ask(api.patch(name, &PatchParams::default(), &Patch::Merge(change))).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What of an order may change while it is held.
pub struct Revision {
    pub aim: Option<Aim>,
    pub container: Option<String>,
}

/// Changes an order that is there, and no other of its name. Each write names the version it is about, and what it
/// changes was not changed by anybody since it was decided: neither can arrive after a later one.
///
/// # Errors
/// As the API server has it.
pub async fn revise(
    client: &Client,
    injection: &Injection,
    revision: &Revision,
    may_act: &(dyn Fn() -> bool + Send + Sync),
) -> Result<(), Error> {
    let api: Api<Injection> = Api::namespaced(client.clone(), &injection.namespace().unwrap_or_default());
    let mut spec = serde_json::Map::new();
    spec.extend(revision.aim.as_ref().map(|aim| ("aim".to_owned(), json!(aim))));
    spec.extend(revision.container.as_ref().map(|container| ("container".to_owned(), json!(container))));
    let name = injection.name_any();
    let mut version = injection.resource_version();
    let unchanged = |now: &Injection| now.spec.aim == injection.spec.aim && now.spec.container == injection.spec.container;
    for _ in 0..TRIES {
        if !may_act() {
            return Ok(());
        }
        let change = json!({"metadata": {"uid": injection.uid(), "resourceVersion": version}, "spec": spec});
        match ask(api.patch(&name, &PatchParams::default(), &Patch::Merge(change))).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        // Its node has written since, or another has its name.
        version = match ask(api.get_opt(&name)).await? {
            Some(now) if now.uid() != injection.uid() || now.is_over() => return Ok(()),
            Some(now) if unchanged(&now) => now.resource_version(),
            Some(_) => return Err(Error::Unclear(format!("{name} was revised by somebody else"))),
            None => return Ok(()),
        };
    }
    Err(Error::Unclear(format!("{name} was written by its node {TRIES} times meanwhile")))
}

/// The run that an order belongs to.
pub fn run_of(injection: &Injection) -> RunId {
    let RunRef { namespace, name, uid } = injection.spec.run.clone();
    RunId { namespace, name, uid }
}

/// Reverts orders of runs that are over or gone, and deletes those that have ended.
///
/// # Errors
/// The API server did not answer; the next sweep goes on.
pub async fn sweep(client: &Client, agents: &str) -> Result<usize, Error> {
    let api: Api<Injection> = Api::namespaced(client.clone(), agents);
    let mut swept = 0;
    for injection in ask(api.list(&ListParams::default().match_any())).await? {
        if sweep::holds(client, &run_of(&injection)).await? {
            continue;
        }
        let name = injection.name_any();
        if injection.is_over() {
            match ask(api.delete(&name, &Default::default())).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        } else if !injection.spec.revert {
            revert(&api, &name).await?;
            swept += 1;
            tracing::info!(injection = name, "reverted what a run had left behind");
        }
    }
    Ok(swept)
}
