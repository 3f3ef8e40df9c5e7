//! Keeps orders to nodes true while they are held: whom a network fault is about, as Services and pods change, and which
//! container is the target's after a restart. It decides nothing: what is to be followed is in the orders.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::{Injection, Network, OnRestart};
use crate::cluster::aim;
use crate::cluster::injections::{self, Revision};

use super::desk::Desk;

/// A container that has taken another's place is looked for this often while an order asks for it, in what is watched
/// anyway.
const LOOK: Duration = Duration::from_millis(250);
/// What could not be read or written is tried again this soon.
const AGAIN: Duration = Duration::from_secs(1);

/// What an aim depends on; orders that have it in common are followed together.
#[derive(Clone, PartialEq)]
struct Subject {
    namespace: String,
    network: Network,
}

impl Subject {
    fn of(order: &Injection) -> Option<Self> {
        Some(Subject { namespace: order.spec.run.namespace.clone(), network: order.spec.fault.network.clone()? })
    }
}

/// One that is followed.
struct Followed {
    subject: Subject,
    orders: HashSet<String>,
    news: Arc<Notify>,
    _task: JoinSet<()>,
}

/// Follows, for ever.
pub async fn tend(desk: &Arc<Desk>) {
    let mut followed: Vec<Followed> = Vec::new();
    let mut changed = desk.orders_changed.subscribe();
    loop {
        let live = desk.live_orders();
        follow_aims(desk, &mut followed, &live);
        let mut waits = false;
        for order in live.iter().filter(|order| order.spec.on_restart == OnRestart::Reinject) {
            waits = true;
            follow_container(desk, order).await;
        }
        if waits {
            // Either way it is looked at again.
            let _ = tokio::time::timeout(LOOK, changed.changed()).await;
        } else if changed.changed().await.is_err() {
            return;
        }
    }
}

fn follow_aims(desk: &Arc<Desk>, followed: &mut Vec<Followed>, live: &[Injection]) {
    let mut by_subject: Vec<(Subject, HashSet<String>)> = Vec::new();
    for order in live {
        let Some(subject) = Subject::of(order) else { continue };
        let uid = order.uid().unwrap_or_default();
        match by_subject.iter_mut().find(|(known, _)| *known == subject) {
            Some((_, orders)) => {
                orders.insert(uid);
            }
            None => by_subject.push((subject, HashSet::from([uid]))),
        }
    }
    followed.retain(|followed| by_subject.iter().any(|(subject, _)| *subject == followed.subject));
    for (subject, orders) in by_subject {
        if let Some(known) = followed.iter_mut().find(|followed| followed.subject == subject) {
            // One that is new may have been aimed before the last news.
            if !orders.is_subset(&known.orders) {
                known.news.notify_one();
            }
            known.orders = orders;
            continue;
        }
        let news = Arc::new(Notify::new());
        let Some(mut task) = aim::watch(&desk.client, &subject.namespace, &subject.network, &news) else { continue };
        task.spawn(follow_aim(Arc::clone(desk), subject.clone(), Arc::clone(&news)));
        followed.push(Followed { subject, orders, news, _task: task });
    }
}

async fn follow_aim(desk: Arc<Desk>, subject: Subject, news: Arc<Notify>) {
    loop {
        news.notified().await;
        while let Err(why) = aim_anew(&desk, &subject).await {
            tracing::warn!(namespace = subject.namespace, why, "whom a network fault is about is not known now; asked again");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn aim_anew(desk: &Desk, subject: &Subject) -> Result<(), String> {
    let now = aim::read(&desk.client, &subject.namespace, &subject.network).await.map_err(|error| error.in_words())?;
    for order in desk.live_orders() {
        if Subject::of(&order).as_ref() == Some(subject) && order.spec.aim.as_ref() != Some(&now) {
            revise(desk, &order, &Revision { aim: Some(now.clone()), container: None }).await?;
        }
    }
    Ok(())
}

async fn follow_container(desk: &Desk, order: &Injection) {
    let (pod, name) = (&order.spec.pod, order.spec.container_name.as_deref().unwrap_or_default());
    let Some(id) = desk.inventory.container(&pod.namespace, &pod.uid, name) else { return };
    if order.spec.container.as_ref() == Some(&id) {
        return;
    }
    if let Err(why) = revise(desk, order, &Revision { aim: None, container: Some(id) }).await {
        tracing::warn!(injection = order.name_any(), why, "could not be told of its new container; tried again");
    }
}

async fn revise(desk: &Desk, order: &Injection, revision: &Revision) -> Result<(), String> {
    let may_act = || desk.leader.is_valid();
    injections::revise(&desk.client, order, revision, &may_act).await.map_err(|error| error.in_words())
}
