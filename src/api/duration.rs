use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::says;

/// A length of time, written as Go writes it: `500ms`, `30s`, `5m`, `1m30s`, `2h`.
///
/// Whole milliseconds, not negative, at most 9,999 h. Units come in the order h, m, s, ms, each at most once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    ms: u64,
}

impl Duration {
    pub const ZERO: Duration = Duration { ms: 0 };

    pub const fn from_millis(ms: u64) -> Self {
        Duration { ms }
    }

    pub const fn from_secs(s: u64) -> Self {
        Duration { ms: s * 1_000 }
    }

    pub const fn as_millis(self) -> u64 {
        self.ms
    }

    pub fn as_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.ms)
    }

    /// The same length for arithmetic with timestamps.
    pub fn as_signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::from_millis(i64::try_from(self.ms).unwrap_or(i64::MAX))
    }

    /// The time between two moments, zero where `later` is before `earlier`.
    pub fn between(earlier: jiff::Timestamp, later: jiff::Timestamp) -> Self {
        Duration { ms: u64::try_from(later.duration_since(earlier).as_millis()).unwrap_or(0) }
    }

    pub fn saturating_add(self, other: Self) -> Self {
        Duration { ms: self.ms.saturating_add(other.ms) }
    }

    pub fn saturating_mul(self, times: u32) -> Self {
        Duration { ms: self.ms.saturating_mul(u64::from(times)) }
    }
}

/// The text was not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{says}, not {0:?}", says = says::DURATION)]
pub struct NotADuration(String);

impl FromStr for Duration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let not = || NotADuration(text.to_owned());
        let mut rest = text;
        let mut units = [("h", 3_600_000u64, 4), ("m", 60_000, 5), ("s", 1_000, 6), ("ms", 1, 7)].into_iter();
        let mut ms = 0u64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(not)?;
            let letters = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
            let (unit, after) = rest[digits..].split_at(letters);
            let (_, factor, _) = units.find(|(name, _, width)| *name == unit && digits <= *width).ok_or_else(not)?;
            let number: u64 = rest[..digits].parse().map_err(|_| not())?;
            ms += number * factor;
            rest = after;
        }
        if text.is_empty() { Err(not()) } else { Ok(Duration { ms }) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ms == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.ms;
        for (unit, factor) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            let number = rest / factor;
            rest %= factor;
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

small_schema!(Duration, {
    "type": "string",
    "maxLength": 24,
    "x-kubernetes-validations": [{
        "rule": "size(self) > 0 && self.matches('^([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?([0-9]{1,7}ms)?$')",
        "message": says::DURATION,
    }],
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (text, ms) in
            [("500ms", 500), ("30s", 30_000), ("1m30s", 90_000), ("2h", 7_200_000), ("0s", 0), ("1h1m1s1ms", 3_661_001)]
        {
            let read: Duration = text.parse().unwrap();
            assert_eq!(read.as_millis(), ms, "{text}");
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused_in_words() {
        for text in ["", "30", "30 s", "5sec", "1s1m", "-1s", "1.5s", "s", "99999h", "1m1m"] {
            let refusal = text.parse::<Duration>().unwrap_err().to_string();
            assert!(refusal.starts_with(says::DURATION), "{text}: {refusal}");
        }
    }
}
