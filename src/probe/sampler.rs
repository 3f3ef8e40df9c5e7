use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::Prober;
use crate::api::{Probe, ProbeStatus};
use crate::engine::steady::{Sample, Seen, Track};

/// The time, as the run's world tells it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// One probe, asked again and again until this is dropped.
///
/// # Guarantees
/// A sample starts every `every`, whatever the previous ones do. Where this process itself was held up, the
/// samples of that time are left out, not made up for. At most ⌈timeout / every⌉ + 1 are under way. The track
/// is fed in the order in which they started, so that a streak is a streak.
#[derive(Debug)]
pub struct Sampler {
    track: Arc<Mutex<Track>>,
    task: JoinHandle<()>,
}

impl Sampler {
    /// Begins at once. What an earlier operator recorded of the probe is gone on from.
    ///
    /// `news` is notified of each sample that may decide something: one that is bad or blind, and the good ones
    /// until there are as many as a breach takes bad ones. The many that only repeat this are not news.
    pub fn start(prober: Prober, recorded: Option<&ProbeStatus>, clock: Clock, news: Arc<Notify>) -> Self {
        let track = Arc::new(Mutex::new(Track::resume(recorded)));
        let task = tokio::spawn({
            let track = track.clone();
            let prober = Arc::new(prober);
            let probe = prober.probe().clone();
            let mut good = 0;
            let taken = probe.clone();
            async move {
                let take = move || {
                    let (prober, started) = (prober.clone(), clock());
                    async move { prober.sample(started).await }
                };
                keep_sampling(&taken, take, move |sample| {
                    let is_news = is_news(&sample.seen, &mut good, probe.breach_after_count());
                    locked(&track).push(sample);
                    if is_news {
                        news.notify_one();
                    }
                })
                .await;
            }
        });
        Sampler { track, task }
    }

    /// All that was seen until now.
    pub fn track(&self) -> Track {
        locked(&self.track).clone()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A track is never left half written: what panicked while holding it had not changed it, or had finished.
fn locked(track: &Mutex<Track>) -> MutexGuard<'_, Track> {
    track.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_news(seen: &Seen, good: &mut u32, breach_after: u32) -> bool {
    match seen {
        Seen::Good(_) => {
            *good = good.saturating_add(1);
            *good <= breach_after
        }
        Seen::Bad(_) => {
            *good = 0;
            true
        }
        Seen::Blind(_) => true,
    }
}

async fn keep_sampling<F>(probe: &Probe, mut take: impl FnMut() -> F, mut hand_on: impl FnMut(Sample))
where
    F: Future<Output = Sample>,
{
    let Probe { every, timeout, .. } = probe;
    let under_way_max = timeout.as_millis().div_ceil(every.as_millis().max(1)) + 1;
    let mut ticks = interval(every.as_std().max(std::time::Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut under_way = FuturesOrdered::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if (under_way.len() as u64) < under_way_max {
                    under_way.push_back(take());
                }
            }
            Some(sample) = under_way.next() => hand_on(sample),
        }
    }
}

#[cfg(test)]
mod tests;
