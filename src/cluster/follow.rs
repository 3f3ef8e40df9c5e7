//! One watch, followed for as long as its task lives.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// A watch is taken up again so often, which costs a request. A connection that died in silence is noticed five
/// seconds after that.
const WATCH_SECONDS: u32 = 60;

/// What a watch says. The first list ends with the first [`Change::Only`].
pub enum Change<K> {
    Is(K),
    Gone(K),
    /// These uids and no others are there.
    Only(HashSet<String>),
}

/// Follows a watch until the task is dropped. Broken watches are taken up again.
pub async fn follow<K>(api: Api<K>, config: Config, what: &'static str, mut on: impl FnMut(Change<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut listed = HashSet::new();
    let mut events = std::pin::pin!(
        watcher(api, Config { timeout: config.timeout.or(Some(WATCH_SECONDS)), ..config }).backoff(Again::default())
    );
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.extend(object.uid());
                on(Change::Is(object));
            }
            Ok(Event::InitDone) => on(Change::Only(std::mem::take(&mut listed))),
            Ok(Event::Apply(object)) => on(Change::Is(object)),
            Ok(Event::Delete(object)) => on(Change::Gone(object)),
            Err(error) => tracing::warn!(watch = what, %error, "a watch broke; it is taken up again"),
        }
    }
}

/// The pause before a broken watch is taken up again: a cord must be seen soon after the API server is back, so
/// it grows to five seconds only (kube's own to half a minute).
struct Again {
    next: Duration,
}

impl Again {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
}

impl Default for Again {
    fn default() -> Self {
        Again { next: Again::FIRST }
    }
}

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(Again::LONGEST);
        Some(pause)
    }
}

impl Backoff for Again {
    fn reset(&mut self) {
        *self = Again::default();
    }
}
