//! The probes of one pretended operator: samples that start on time, and answers from the model.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::api::{Duration, Expect, Probe, ProbeStatus, WorkloadRef};
use crate::engine::steady::Margin;
use crate::engine::{Sample, Seen, Track};

use super::cluster::{Cluster, Reply};

#[derive(Debug)]
pub struct Sampler {
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    probe: Probe,
    track: Track,
    next: Timestamp,
    /// Samples under way, in the order in which they started, with the time of their answer.
    waiting: VecDeque<(Timestamp, Sample)>,
}

/// While this lasts, a probe sees nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Blind {
    pub probe: String,
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Sampler {
    pub fn new(probes: &[Probe], recorded: &[ProbeStatus], now: Timestamp) -> Self {
        let lanes = probes
            .iter()
            .map(|probe| Lane {
                probe: probe.clone(),
                track: Track::resume(recorded.iter().find(|status| status.name == probe.name)),
                next: now,
                waiting: VecDeque::new(),
            })
            .collect();
        Sampler { lanes }
    }

    pub fn tracks(&self) -> Vec<Track> {
        self.lanes.iter().map(|lane| lane.track.clone()).collect()
    }

    /// When the next sample starts or answers.
    pub fn next(&self) -> Option<Timestamp> {
        self.lanes.iter().flat_map(|lane| [Some(lane.next), lane.waiting.front().map(|(at, _)| *at)]).flatten().min()
    }

    /// Starts and takes in what is due. Gives the samples that were answered, with their probe's place.
    pub fn advance(&mut self, cluster: &mut Cluster, blind: &[Blind], now: Timestamp) -> Vec<(usize, Sample)> {
        let mut answered = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            while lane.next <= now {
                let started = lane.next;
                let is_blind =
                    blind.iter().any(|blind| blind.probe == lane.probe.name && blind.from <= started && started < blind.until);
                let sample = if is_blind {
                    let seen = Seen::Blind("the sample could not be taken".to_owned());
                    Sample { started, took_ms: 0.0, seen, margin: None }
                } else {
                    take(&lane.probe, cluster, started)
                };
                let took = Duration::from_millis(sample.took_ms.ceil() as u64);
                lane.waiting.push_back((started + took.as_signed(), sample));
                lane.next = started + lane.probe.every.as_signed();
            }
            while lane.waiting.front().is_some_and(|(at, _)| *at <= now) {
                if let Some((_, sample)) = lane.waiting.pop_front() {
                    lane.track.push(sample.clone());
                    answered.push((index, sample));
                }
            }
        }
        answered
    }
}

fn take(probe: &Probe, cluster: &mut Cluster, started: Timestamp) -> Sample {
    if let Some(of) = &probe.workload {
        return ask_workload(of, &probe.expect, cluster, started);
    }
    let (host, said) = match (&probe.http, &probe.tcp) {
        (Some(http), _) => (host_of(&http.url), "200"),
        (None, Some(tcp)) => (tcp.address.rsplit_once(':').map_or("", |(host, _)| host).to_owned(), "connected"),
        (None, None) => (String::new(), ""),
    };
    let limit = probe.expect.latency;
    let bad = |took_ms: f64, why: String| Sample { started, took_ms, seen: Seen::Bad(why), margin: None };
    let took_ms = match cluster.ask(&host) {
        Reply::NoSuchHost => return bad(2.0, format!("no such host: {host}")),
        Reply::Refused => return bad(1.0, "connection refused".to_owned()),
        Reply::Answered(took_ms) => took_ms,
    };
    let timeout_ms = probe.timeout.as_millis() as f64;
    if took_ms > timeout_ms {
        return bad(timeout_ms, format!("no answer within {}", probe.timeout));
    }
    if probe.http.is_some() && !probe.expect.status.is_empty() && !probe.expect.status.contains(&200) {
        return bad(took_ms, "200, which is not expected".to_owned());
    }
    let margin = limit.map(|limit| {
        let limit = limit.as_millis() as f64;
        Margin { left: limit - took_ms, limit, unit: "ms" }
    });
    let seen = match limit {
        Some(limit) if took_ms > limit.as_millis() as f64 => Seen::Bad(format!("{said} in {took_ms:.0} ms, more than {limit}")),
        Some(_) | None => Seen::Good(format!("{said} in {took_ms:.0} ms")),
    };
    Sample { started, took_ms, seen, margin }
}

fn ask_workload(of: &WorkloadRef, expect: &Expect, cluster: &Cluster, started: Timestamp) -> Sample {
    let took_ms = 1.0;
    let Some(workload) = cluster.workloads.get(of) else {
        let seen = Seen::Bad(format!("there is no {of}"));
        return Sample { started, took_ms, seen, margin: None };
    };
    let ready = cluster.ready_count(of);
    let wanted = usize::try_from(workload.replicas).unwrap_or(0);
    let needed = match &expect.ready {
        None => wanted,
        Some(ready) => match (ready.count, ready.percent) {
            (Some(count), _) => usize::try_from(count).unwrap_or(0),
            (None, Some(percent)) => (wanted * usize::from(percent.get())).div_ceil(100),
            (None, None) => wanted,
        },
    };
    let margin = Some(Margin { left: ready as f64 - needed as f64, limit: needed as f64, unit: "replicas" });
    let seen = if ready >= needed {
        Seen::Good(format!("{ready} of {wanted} replicas ready"))
    } else {
        Seen::Bad(format!("{ready} of {wanted} replicas ready, {needed} needed"))
    };
    Sample { started, took_ms, seen, margin }
}

/// The host of a URL that admission has let pass.
pub fn host_of(url: &str) -> String {
    url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default()
}
