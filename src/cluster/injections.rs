//! Orders to nodes: written here, read by agents.

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::api::{
    Aim, Duration, Injection, InjectionSpec, LABEL_HELD_BY, LABEL_HELD_FOR_NAME, LABEL_HELD_FOR_NAMESPACE, Network, Peer, Peers,
    PodRef, RunRef,
};
use crate::engine::held::Order;
use crate::engine::{Outcome, RunId, TargetId};
use crate::turn::Trouble;

use super::client::{Error, FIELD_MANAGER, ask};
use super::hands::{self, Hands};
use super::sweep;

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
        Some(network) if !revert => Some(aim(client, &run.namespace, target, network).await?),
        Some(_) | None => None,
    };
    let spec = InjectionSpec {
        run: RunRef { namespace: run.namespace.clone(), name: run.name.clone(), uid: run.uid.clone() },
        experiment: experiment.to_owned(),
        node: order.node.clone(),
        pod: PodRef { namespace: run.namespace.clone(), name: target.name.clone(), uid: target.uid.clone() },
        container: order.container.clone(),
        fault: order.fault.clone(),
        aim,
        hold: order.hold.max(Duration::from_secs(1)),
        seed: 0,
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

/// Who a network fault is about, as addresses.
///
/// # Errors
/// The API server did not answer.
async fn aim(client: &Client, namespace: &str, target: &TargetId, network: &Network) -> Result<Aim, Error> {
    let mut to = Vec::new();
    match &network.to {
        None => to.push(Peers::default()),
        Some(peers) => {
            for peer in peers {
                to.push(peers_of(client, namespace, peer).await?);
            }
        }
    }
    let mut except = Vec::new();
    for peer in network.except.iter().flatten() {
        except.push(peers_of(client, namespace, peer).await?);
    }
    if network.kubelet != Some(true) {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let status = ask(pods.get(&target.name)).await?.status.unwrap_or_default();
        let hosts: Vec<String> = status.host_ips.into_iter().flatten().map(|host| host.ip).collect();
        if !hosts.is_empty() {
            except.push(Peers { addresses: Some(hosts), ..Peers::default() });
        }
    }
    Ok(Aim { to, except })
}

async fn peers_of(client: &Client, namespace: &str, peer: &Peer) -> Result<Peers, Error> {
    let namespace = peer.namespace.as_deref().unwrap_or(namespace);
    let mut addresses = None;
    if let Some(cidr) = &peer.cidr {
        addresses = Some(vec![cidr.to_string()]);
    }
    if let Some(name) = &peer.service {
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let service = ask(services.get(name)).await?.spec.unwrap_or_default();
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        let of = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        let slices = ask(slices.list(&of)).await?;
        let own = service.cluster_ips.into_iter().flatten().filter(|address| address != "None");
        let endpoints = slices.items.into_iter().flat_map(|slice| slice.endpoints).flat_map(|endpoint| endpoint.addresses);
        addresses = Some(own.chain(endpoints).collect());
    }
    if let Some(selector) = &peer.pods {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let found = ask(pods.list(&ListParams::default().labels(&selector.to_string()))).await?;
        let status = found.items.into_iter().filter_map(|pod| pod.status);
        addresses = Some(status.flat_map(|status| status.pod_ips.into_iter().flatten()).map(|pod| pod.ip).collect());
    }
    Ok(Peers {
        addresses,
        protocol: peer.protocol,
        ports: peer.ports.clone().unwrap_or_default(),
        own_ports: peer.own_ports.clone().unwrap_or_default(),
    })
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
        let over = injection.status.as_ref().is_some_and(|status| status.phase.is_over());
        if over {
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
