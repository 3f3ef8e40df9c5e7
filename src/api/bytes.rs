use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::says;

/// A number of bytes, one or more, written as a number or as Kubernetes writes memory: `4096`, `64Ki`, `256Mi`, `2Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Bytes(u64);

/// Under 1 PiB, and under what JSON carries exactly.
const MOST: u64 = 999_999_999_999_999;

impl Bytes {
    /// # Errors
    /// None, or a petabyte and more.
    pub const fn new(number: u64) -> Result<Self, &'static str> {
        if number == 0 || number > MOST { Err(says::BYTES) } else { Ok(Bytes(number)) }
    }

    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Size(self.0).fmt(f)
    }
}

/// A number of bytes in a sentence, rounded to a tenth of a unit: `51.2Mi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
        match units.into_iter().find(|(unit, _)| self.0 >= *unit) {
            None => write!(f, "{} bytes", self.0),
            Some((unit, name)) if self.0.is_multiple_of(unit) => write!(f, "{}{name}", self.0 / unit),
            Some((unit, name)) => write!(f, "{:.1}{name}", self.0 as f64 / unit as f64),
        }
    }
}

impl FromStr for Bytes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let factor: u64 = match &text[digits..] {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return Err(says::BYTES),
        };
        let number = text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        Bytes::new(number.ok_or(says::BYTES)?)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written<'a> {
            Number(u64),
            Text(Cow<'a, str>),
        }
        let read = match Written::deserialize(deserializer) {
            Ok(Written::Number(number)) => Bytes::new(number),
            Ok(Written::Text(text)) => text.parse(),
            Err(_) => Err(says::BYTES),
        };
        read.map_err(serde::de::Error::custom)
    }
}

small_schema!(Bytes, {
    "x-kubernetes-int-or-string": true,
    "maxLength": 15,
    "x-kubernetes-validations": [{
        "rule": "string(self).matches('^([1-9][0-9]{0,14}|[1-9][0-9]{0,10}Ki|[1-9][0-9]{0,7}Mi|[1-9][0-9]{0,4}Gi|[1-9][0-9]{0,1}Ti)$')",
        "message": says::BYTES,
    }],
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_kubernetes_writes_them() {
        let read = |text: &str| serde_json::from_str::<Bytes>(text).map(Bytes::get).map_err(|error| error.to_string());
        assert_eq!(["7", "\"7\"", "\"64Ki\"", "\"2Gi\""].map(|text| read(text).unwrap()), [7, 7, 65_536, 2_147_483_648]);
        let not = [
            "0",
            "-1",
            "1.5",
            "\"\"",
            "\"Mi\"",
            "\"1.5Gi\"",
            "\"5MB\"",
            "99999999999999999999",
            "\"17179869184Gi\"",
            "\"910Ti\"",
            "[]",
        ];
        for text in not {
            assert!(read(text).unwrap_err().contains(says::BYTES), "{text}");
        }
        assert_eq!(serde_json::to_string(&Bytes::new(4096).unwrap()).unwrap(), "4096");
    }

    #[test]
    fn a_size_is_said_as_kubernetes_writes_it() {
        let said = [0, 1023, 1024, 1536, 53_687_091, 64 << 20, 5 << 40].map(|bytes| Size(bytes).to_string());
        assert_eq!(said, ["0 bytes", "1023 bytes", "1Ki", "1.5Ki", "51.2Mi", "64Mi", "5Ti"]);
    }
}
