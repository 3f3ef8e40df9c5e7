//! Who is at the other end of a network fault: Services and pods as addresses, and the news that they have changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams, PartialObjectMeta};
use kube::runtime::watcher;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::{Aim, Network, Peer, Peers};

use super::client::{Error, ask};
use super::follow::follow;

const SERVICE_OF: &str = "kubernetes.io/service-name";

/// Everybody whom the fault is about, as they are now.
///
/// # Errors
/// A Service does not exist, or the API server did not answer.
pub async fn read(client: &Client, namespace: &str, network: &Network) -> Result<Aim, Error> {
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
    Ok(Aim { to, except })
}

/// Watches whatever `read` reads, and says when any of it has changed. `None`: nothing of it can.
pub fn watch(client: &Client, namespace: &str, network: &Network, news: &Arc<Notify>) -> Option<JoinSet<()>> {
    let peers = || network.to.iter().chain(&network.except).flatten();
    let place = |peer: &Peer| peer.namespace.clone().unwrap_or_else(|| namespace.to_owned());
    let services: BTreeSet<_> = peers().filter_map(|peer| Some((place(peer), peer.service.clone()?))).collect();
    let pods: BTreeSet<_> = peers().filter_map(|peer| Some((place(peer), peer.pods.as_ref()?.to_string()))).collect();
    let mut watches = JoinSet::new();
    for (namespace, name) in services {
        let named = watcher::Config::default().fields(&format!("metadata.name={name}"));
        add::<Service>(&mut watches, client, &namespace, named, "services", news);
        let of = watcher::Config::default().labels(&format!("{SERVICE_OF}={name}"));
        add::<EndpointSlice>(&mut watches, client, &namespace, of, "endpointslices", news);
    }
    for (namespace, selector) in pods {
        let selected = watcher::Config::default().labels(&selector);
        add::<Pod>(&mut watches, client, &namespace, selected, "pods to aim at", news);
    }
    (!watches.is_empty()).then_some(watches)
}

fn add<K>(
    watches: &mut JoinSet<()>,
    client: &Client,
    namespace: &str,
    config: watcher::Config,
    what: &'static str,
    news: &Arc<Notify>,
) where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + std::fmt::Debug + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(client.clone(), namespace);
    let news = Arc::clone(news);
    watches.spawn(follow(api, config, what, move |_| news.notify_one()));
}

async fn peers_of(client: &Client, namespace: &str, peer: &Peer) -> Result<Peers, Error> {
    let namespace = peer.namespace.as_deref().unwrap_or(namespace);
    let mut found = Peers {
        addresses: None,
        dns: peer.dns.clone(),
        protocol: peer.protocol,
        ports: peer.ports.clone().unwrap_or_default(),
        own_ports: peer.own_ports.clone().unwrap_or_default(),
    };
    if let Some(cidr) = &peer.cidr {
        found.addresses = Some(vec![cidr.to_string()]);
    }
    if let Some(name) = &peer.service {
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let service = ask(services.get(name)).await?.spec.unwrap_or_default();
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        let of = ListParams::default().labels(&format!("{SERVICE_OF}={name}"));
        let slices = ask(slices.list(&of)).await?;
        let own = service.cluster_ips.into_iter().flatten().filter(|address| address != "None");
        let endpoints = slices.items.into_iter().flat_map(|slice| slice.endpoints).flat_map(|endpoint| endpoint.addresses);
        found.addresses = Some(in_order(own.chain(endpoints)));
        found.dns = service.external_name.filter(|name| !name.is_empty());
    }
    if let Some(selector) = &peer.pods {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let list = ask(pods.list(&ListParams::default().labels(&selector.to_string()))).await?;
        // The address of a pod that has ended is another's soon.
        let ended = |phase: &Option<String>| matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        let live = list.items.into_iter().filter_map(|pod| pod.status).filter(|status| !ended(&status.phase));
        found.addresses = Some(in_order(live.flat_map(|status| status.pod_ips.into_iter().flatten()).map(|pod| pod.ip)));
    }
    if found.dns.is_some() {
        // A name alone is not everyone.
        found.addresses.get_or_insert_default();
    }
    Ok(found)
}

/// So that the same addresses make the same aim.
fn in_order(addresses: impl Iterator<Item = String>) -> Vec<String> {
    addresses.collect::<BTreeSet<_>>().into_iter().collect()
}
