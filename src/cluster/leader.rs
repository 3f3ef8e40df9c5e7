//! Who of several operators acts: the holder of a Lease, by compare-and-swap.
//!
//! Nobody trusts another's clock. A lease has expired for an observer when it has not changed for its length, by
//! the observer's own monotonic clock. The holder stops acting well before that: [`Leader::is_valid`] is asked
//! before each write and each act, so that a process that was stopped and continued does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::watch;

use crate::api::ANNOTATION_LET_GO;

use super::client::{Error, ask};
use super::follow::{Change, follow};

/// The Lease's name, in the operator's namespace.
pub const LEASE: &str = "gameday";
/// Others may lead when the lease has not changed for so long. client-go's default: short enough that an abort
/// is taken over in time, long enough for an API server's restart.
const LENGTH: Duration = Duration::from_secs(15);
/// Renewed so often: two renewals may fail before it is given up, and a pair of idle operators asks little.
const RENEW: Duration = Duration::from_secs(5);
/// A holder that could not renew for so long does not lead any more: five seconds before others may.
const GIVE_UP: Duration = Duration::from_secs(10);
/// A renewal that failed is tried again this soon.
const AGAIN: Duration = Duration::from_secs(1);
/// What is to be let go is named for so long after it was last asked for. Who has not read it by then is told order by
/// order.
const NAMED: Duration = Duration::from_secs(10);
/// So many names at most, of a hundred bytes at most: an object's annotations may have 256 KiB.
const NAMES: usize = 1_000;

/// Proof, at any moment, that this process leads. Cheap to ask and to clone.
#[derive(Clone)]
pub struct Leader {
    start: Instant,
    /// Milliseconds from `start` until which this process may act.
    until_ms: Arc<AtomicU64>,
    /// What agents are told to let go.
    let_go: Arc<watch::Sender<BTreeMap<String, Asked>>>,
}

#[derive(Clone, Copy)]
struct Asked {
    first: Instant,
    last: Instant,
}

impl Leader {
    fn new(start: Instant) -> Self {
        Leader { start, until_ms: Arc::default(), let_go: Arc::default() }
    }

    /// Whether this process may act, now, by the monotonic clock.
    pub fn is_valid(&self) -> bool {
        self.start.elapsed() < Duration::from_millis(self.until_ms.load(Ordering::Acquire))
    }

    /// Tells all agents at once to let go what this names, by one write for all that are named by then: the Lease is
    /// renewed now. Returns when it was first asked for, within the time that it is named; `None`: there is no room.
    pub fn let_go(&self, what: String) -> Option<Instant> {
        let now = Instant::now();
        let mut first = None;
        self.let_go.send_if_modified(|named| {
            named.retain(|_, asked| now.duration_since(asked.last) < NAMED);
            if let Some(asked) = named.get_mut(&what) {
                asked.last = now;
                first = Some(asked.first);
                return false;
            }
            let has_room = named.len() < NAMES;
            if has_room {
                named.insert(what, Asked { first: now, last: now });
                first = Some(now);
            }
            has_room
        });
        first
    }

    fn named(&self) -> Option<String> {
        let named = self.let_go.borrow();
        let current = named.iter().filter(|(_, asked)| asked.last.elapsed() < NAMED);
        let names: Vec<&str> = current.map(|(what, _)| what.as_str()).collect();
        // A list of strings is always JSON.
        (!names.is_empty()).then(|| serde_json::to_string(&names).unwrap_or_default())
    }

    fn extend(&self, renewed: Instant) {
        let until = renewed.duration_since(self.start) + GIVE_UP;
        self.until_ms.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
    }
}

/// The lease could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("{0} leads now")]
    Taken(String),
    #[error("the lease could not be renewed for {GIVE_UP:?}: {0}")]
    Late(String),
}

/// The lease, held.
pub struct Held {
    pub leader: Leader,
    api: Api<Lease>,
    identity: String,
    lease: Lease,
}

/// Waits until this process leads. `watching` is called as soon as the lease has been looked for.
pub async fn lead(client: &Client, namespace: &str, identity: &str, watching: impl Fn()) -> Held {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let (seen, mut news) = watch::channel(Seen::NotYet);
    let config = kube::runtime::watcher::Config::default().fields(&format!("metadata.name={LEASE}"));
    let following = follow(api.clone(), config, "lease", |change| {
        let now = Instant::now();
        let new = match change {
            Change::Is(lease) => Seen::Is(Box::new(lease), now),
            Change::Gone(_) => Seen::Nothing,
            Change::Only(uids) => {
                watching();
                if !uids.is_empty() {
                    return;
                }
                Seen::Nothing
            }
        };
        seen.send_replace(new);
    });
    let standing_by = async {
        loop {
            let current = news.borrow_and_update().clone();
            let taken = match current {
                Seen::NotYet => {
                    changed(&mut news).await;
                    continue;
                }
                Seen::Nothing => take(&api, identity, None).await,
                Seen::Is(lease, since) => {
                    let wait = if is_free(&lease) { Duration::ZERO } else { LENGTH.saturating_sub(since.elapsed()) };
                    tokio::select! {
                        () = changed(&mut news) => continue,
                        () = tokio::time::sleep(wait) => {}
                    }
                    take(&api, identity, Some(*lease)).await
                }
            };
            match taken {
                Ok(held) => return held,
                // Somebody was quicker: the watch will say who.
                Err(error) if error.is_conflict() => changed_or(&mut news, AGAIN).await,
                Err(error) => {
                    tracing::warn!(%error, "the lease could not be taken; it is tried again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    };
    tokio::select! {
        held = standing_by => held,
        () = following => unreachable!("a watch is followed until it is dropped"),
    }
}

#[derive(Clone)]
enum Seen {
    NotYet,
    Nothing,
    /// As it was first seen at this moment.
    Is(Box<Lease>, Instant),
}

async fn changed(news: &mut watch::Receiver<Seen>) {
    if news.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn changed_or(news: &mut watch::Receiver<Seen>, limit: Duration) {
    // Either way the lease is looked at again.
    let _ = tokio::time::timeout(limit, changed(news)).await;
}

fn is_free(lease: &Lease) -> bool {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default().is_empty()
}

async fn take(api: &Api<Lease>, identity: &str, old: Option<Lease>) -> Result<Held, Error> {
    let asked = Instant::now();
    let now = MicroTime(Timestamp::now());
    let transitions = old.as_ref().and_then(|lease| lease.spec.as_ref()?.lease_transitions).map_or(0, |count| count + 1);
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LENGTH.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    };
    let lease = match old {
        None => {
            let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
            ask(api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) })).await?
        }
        Some(mut old) => {
            // What the one before let go is over, or is asked for again.
            old.metadata.annotations.get_or_insert_default().remove(ANNOTATION_LET_GO);
            ask(api.replace(LEASE, &PostParams::default(), &Lease { spec: Some(spec), ..old })).await?
        }
    };
    let leader = Leader::new(asked);
    leader.extend(asked);
    Ok(Held { leader, api: api.clone(), identity: identity.to_owned(), lease })
}

impl Held {
    /// Renews the lease for as long as that is possible.
    pub async fn keep(&mut self) -> Lost {
        let mut renewed = Instant::now();
        let mut wait = RENEW;
        let mut asked_to_let_go = self.leader.let_go.subscribe();
        loop {
            // Either way it is renewed.
            let _ = tokio::time::timeout(wait, asked_to_let_go.changed()).await;
            let asked = Instant::now();
            if !self.leader.is_valid() {
                return Lost::Late(format!("this process stood still for {:?}", asked.duration_since(renewed)));
            }
            let left = GIVE_UP.saturating_sub(renewed.elapsed());
            let failed = match tokio::time::timeout(left, self.renew()).await {
                Ok(Ok(())) => {
                    renewed = asked;
                    self.leader.extend(asked);
                    wait = RENEW;
                    continue;
                }
                Ok(Err(Failed::Taken(other))) => {
                    self.leader.end();
                    return Lost::Taken(other);
                }
                Ok(Err(Failed::Error(error))) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            tracing::warn!(error = failed, "the lease could not be renewed; it is tried again");
            if renewed.elapsed() + AGAIN >= GIVE_UP {
                self.leader.end();
                return Lost::Late(failed);
            }
            wait = AGAIN;
        }
    }

    async fn renew(&mut self) -> Result<(), Failed> {
        let mut next = self.lease.clone();
        let annotations = next.metadata.annotations.get_or_insert_default();
        match self.leader.named() {
            Some(named) => annotations.insert(ANNOTATION_LET_GO.to_owned(), named),
            None => annotations.remove(ANNOTATION_LET_GO),
        };
        if let Some(spec) = &mut next.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match ask(self.api.replace(LEASE, &PostParams::default(), &next)).await {
            Ok(lease) => {
                self.lease = lease;
                Ok(())
            }
            Err(error) if error.is_conflict() || error.is_not_found() => {
                // A renewal whose answer was lost, or another leader. If it is ours, what counts is the next
                // renewal, not this read.
                let now = ask(self.api.get(LEASE)).await.map_err(Failed::Error)?;
                let holder = now.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
                if holder != self.identity {
                    return Err(Failed::Taken(holder));
                }
                self.lease = now;
                Err(Failed::Error(error))
            }
            Err(error) => Err(Failed::Error(error)),
        }
    }

    /// Gives the lease back, so that another leads at once.
    pub async fn release(mut self) {
        self.leader.end();
        if let Some(spec) = &mut self.lease.spec {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        if let Err(error) = ask(self.api.replace(LEASE, &PostParams::default(), &self.lease)).await {
            tracing::warn!(%error, lease = self.lease.name_any(), "the lease could not be released; it will expire");
        }
    }
}

enum Failed {
    Taken(String),
    Error(Error),
}
