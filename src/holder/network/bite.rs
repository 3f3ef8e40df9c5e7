//! What the fault did, counted and measured where it is done.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Everything since the start. The times are those of the last second; in the last report, of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bite {
    pub after_ms: u64,
    /// Packets that passed the hooks, counted by the kernel. A superpacket counts once.
    pub seen: u64,
    /// Those that the order is about, counted by the kernel.
    pub hit: u64,
    /// Those that came to the holder, one by one. Fewer than `hit` where it could not keep up: the rest passed unharmed, or,
    /// of what goes out by way of a TAP, counts as `failed`.
    pub taken: u64,
    pub delayed: u64,
    pub lost: u64,
    /// Dropped because too many waited for the rate.
    pub overflowed: u64,
    pub duplicated: u64,
    pub corrupted: u64,
    /// Let go ahead of those before them.
    pub reordered: u64,
    /// Let go before their time, because too much waited.
    pub early: u64,
    /// Taken from the holder by the kernel: somebody removed a hook in this network namespace.
    pub taken_away: u64,
    /// That should have been duplicated, corrupted or sent on, and could not be.
    pub failed: u64,
    /// Connections of the target that were reset.
    pub reset: u64,
    /// Packets that wait now, and their bytes.
    pub waiting: u64,
    pub waiting_bytes: u64,
    /// How long packets were held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_us: Option<Quantiles>,
    /// How long after their time packets left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_us: Option<Quantiles>,
}

impl Bite {
    /// Whether anything was done to anything. The kernel counts what it dropped itself.
    pub fn bit(&self) -> bool {
        self.hit > 0 || self.reset > 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Times of the current second and of all, in hundreds of nanoseconds, to one percent.
pub struct Measured {
    second: Histogram<u64>,
    whole: Histogram<u64>,
}

const NS_PER_STEP: u64 = 100;
const STEPS_MAX: u64 = 3_600_000_000_000 / NS_PER_STEP;

impl Default for Measured {
    fn default() -> Self {
        let bounds = "these bounds are valid";
        Measured {
            second: Histogram::new_with_bounds(1, STEPS_MAX, 2).expect(bounds),
            whole: Histogram::new_with_bounds(1, STEPS_MAX, 2).expect(bounds),
        }
    }
}

impl Measured {
    pub fn add(&mut self, ns: u64) {
        self.second.saturating_record(ns / NS_PER_STEP);
    }

    /// What was added since the last time this was called.
    pub fn take_second(&mut self) -> Option<Quantiles> {
        let quantiles = quantiles(&self.second);
        self.whole.add(&self.second).expect("both have the same bounds");
        self.second.reset();
        quantiles
    }

    /// All that was added.
    pub fn take_whole(&mut self) -> Option<Quantiles> {
        self.take_second();
        quantiles(&self.whole)
    }
}

fn quantiles(histogram: &Histogram<u64>) -> Option<Quantiles> {
    let us = |steps: u64| (steps * NS_PER_STEP) as f64 / 1_000.0;
    (!histogram.is_empty()).then(|| Quantiles {
        p50: us(histogram.value_at_quantile(0.5)),
        p99: us(histogram.value_at_quantile(0.99)),
        max: us(histogram.max()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_measured_and_only_the_whole_remembers_it() {
        let mut measured = Measured::default();
        assert_eq!(measured.take_second(), None);
        (1..=100).for_each(|us| measured.add(us * 1_000));
        let found = measured.take_second().unwrap();
        assert!((found.p50 - 50.0).abs() < 1.0 && (found.p99 - 99.0).abs() < 1.5, "{found:?}");
        assert_eq!(measured.take_second(), None);
        measured.add(1_000_000);
        let whole = measured.take_whole().unwrap();
        assert!((whole.p50 - 51.0).abs() < 1.0 && (whole.max / 1_000.0 - 1.0).abs() < 0.01, "{whole:?}");
    }

    #[test]
    fn nothing_hit_is_no_bite() {
        assert!(!Bite { seen: 1_000, ..Bite::default() }.bit());
        assert!(Bite { hit: 1, ..Bite::default() }.bit());
    }
}
