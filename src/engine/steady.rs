//! What the probes saw, kept so that it can be judged: counts, streaks and latencies. A [`Track`] is fed
//! finished samples in the order in which they started.

use hdrhistogram::Histogram;
use jiff::Timestamp;

use crate::api::{Probe, ProbeStatus};

/// One answer of a probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub started: Timestamp,
    /// Milliseconds from the start to the answer, or to giving up.
    pub took_ms: f64,
    pub seen: Seen,
    /// How far the answer stayed from the limit; negative beyond it. `None` where no limit was set.
    pub margin: Option<Margin>,
}

/// What a sample says.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// As expected, and what was seen: "200 in 12 ms".
    Good(String),
    /// Not as expected, and why: "503, not 200".
    Bad(String),
    /// The sample could not be taken, and why. Says nothing about the steady state.
    Blind(String),
}

/// Distance to a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    pub left: f64,
    pub limit: f64,
    /// "ms" or "replicas".
    pub unit: &'static str,
}

impl std::fmt::Display for Margin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Margin { left, limit, unit } = self;
        match *unit {
            "replicas" => write!(f, "{left} above the {limit} needed"),
            unit => write!(f, "{left:.0} of {limit:.0} {unit} left"),
        }
    }
}

/// All that is remembered of one probe.
#[derive(Clone, Debug)]
pub struct Track {
    samples: i64,
    bad: i64,
    blind: i64,
    /// Bad samples one after the other, and when the first of them started.
    streak: u32,
    first_bad: Option<Timestamp>,
    /// Good samples one after the other, and when the first of them started.
    good: u32,
    good_since: Option<Timestamp>,
    /// The start of the last sample that saw something.
    last_seen: Option<Timestamp>,
    said: Option<String>,
    latencies_us: Histogram<u32>,
    worst_ms: Option<f64>,
    closest: Option<Margin>,
    resumed: ProbeStatus,
}

impl Track {
    /// A probe of which nothing has been seen, or of which an earlier operator recorded something: its counts
    /// go on, its quantiles begin anew.
    pub fn resume(recorded: Option<&ProbeStatus>) -> Self {
        let resumed = recorded.cloned().unwrap_or_default();
        Track {
            samples: resumed.samples,
            bad: resumed.bad,
            blind: resumed.blind,
            streak: 0,
            first_bad: None,
            good: 0,
            good_since: None,
            last_seen: resumed.last,
            said: resumed.saw.clone(),
            latencies_us: Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("1 µs to 1 h with 2 digits are valid bounds"),
            worst_ms: resumed.worst_ms,
            closest: None,
            resumed,
        }
    }

    /// Takes in a finished sample. Samples come in the order in which they started.
    pub fn push(&mut self, sample: Sample) {
        let Sample { started, took_ms, seen, margin } = sample;
        self.samples += 1;
        match seen {
            Seen::Good(said) => {
                self.streak = 0;
                self.first_bad = None;
                self.good += 1;
                self.good_since.get_or_insert(started);
                self.last_seen = Some(started);
                self.said = Some(said);
            }
            Seen::Bad(said) => {
                self.bad += 1;
                self.streak += 1;
                self.first_bad.get_or_insert(started);
                self.good = 0;
                self.good_since = None;
                self.last_seen = Some(started);
                self.said = Some(said);
            }
            Seen::Blind(said) => {
                self.blind += 1;
                self.said = Some(said);
                return;
            }
        }
        self.latencies_us.saturating_record((took_ms * 1_000.0).round().max(1.0) as u64);
        self.worst_ms = Some(self.worst_ms.map_or(took_ms, |worst| worst.max(took_ms)));
        if let Some(margin) = margin
            && self.closest.is_none_or(|closest| margin.left < closest.left)
        {
            self.closest = Some(margin);
        }
    }

    /// The breach, if the last samples are one: when the first bad one started.
    pub fn breach(&self, probe: &Probe) -> Option<Timestamp> {
        if self.streak >= probe.breach_after_count() { self.first_bad } else { None }
    }

    /// Since when every sample has been good.
    pub fn good_since(&self) -> Option<Timestamp> {
        self.good_since
    }

    /// Whether so many good samples in a row are steady again: as many as a breach takes bad ones.
    pub fn is_steady(&self, probe: &Probe) -> bool {
        self.good >= probe.breach_after_count()
    }

    /// The start of the last sample that saw something.
    pub fn last_seen(&self) -> Option<Timestamp> {
        self.last_seen
    }

    /// What the last sample said.
    pub fn said(&self) -> &str {
        self.said.as_deref().unwrap_or("no sample yet")
    }

    pub fn status(&self, probe: &Probe) -> ProbeStatus {
        let quantile = |q: f64| {
            let own = (!self.latencies_us.is_empty()).then(|| self.latencies_us.value_at_quantile(q) as f64 / 1_000.0);
            own.map(round)
        };
        ProbeStatus {
            name: probe.name.clone(),
            samples: self.samples,
            bad: self.bad,
            blind: self.blind,
            p50_ms: quantile(0.50).or(self.resumed.p50_ms),
            p99_ms: quantile(0.99).or(self.resumed.p99_ms),
            worst_ms: self.worst_ms.map(round),
            margin: self.closest.map(|margin| margin.to_string()).or_else(|| self.resumed.margin.clone()),
            last: self.last_seen,
            saw: self.said.clone(),
            streak: i64::from(self.streak),
        }
    }
}

/// Microseconds are enough, and keep the record short.
fn round(ms: f64) -> f64 {
    (ms * 1_000.0).round() / 1_000.0
}
