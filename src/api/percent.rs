use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::says;

/// A whole percentage, 1 to 100. Of a number of things it takes the part rounded **down**: a limit that rounds
/// up is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Percent(u8);

impl Percent {
    /// # Errors
    /// Nothing below 1 or above 100 is a percentage here.
    pub fn new(value: i64) -> Result<Self, &'static str> {
        match u8::try_from(value) {
            Ok(value @ 1..=100) => Ok(Percent(value)),
            _ => Err(says::PERCENT),
        }
    }

    pub const fn get(self) -> u8 {
        self.0
    }

    /// This part of `whole`, rounded down.
    pub fn of(self, whole: usize) -> usize {
        whole * usize::from(self.0) / 100
    }

    /// The smallest percentage that is somebody of `whole`; `None` where `whole` is nobody.
    pub fn smallest_of(whole: usize) -> Option<u8> {
        (1..=100u8).find(|value| Percent(*value).of(whole) > 0)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Percent::new(i64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

small_schema!(Percent, {
    "type": "integer",
    "x-kubernetes-validations": [{"rule": "self >= 1 && self <= 100", "message": says::PERCENT}],
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_rounded_down() {
        let sums: Vec<usize> = [(10, 4), (25, 4), (34, 3), (33, 3), (50, 3), (100, 7)]
            .map(|(percent, whole)| Percent::new(percent).unwrap().of(whole))
            .into();
        assert_eq!(sums, [0, 1, 1, 0, 1, 7]);
        assert_eq!(Percent::smallest_of(4), Some(25));
        assert_eq!(Percent::smallest_of(0), None);
    }
}
