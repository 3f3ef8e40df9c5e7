//! What a holder says, one JSON line each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// In order: `Refused` alone; or `Started`, a `Bite` each second, then `Cleared` or `Lost`. A holder that ends
/// without one of these two was killed, and the kernel has taken its fault back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// In force from now on.
    Started(Started),
    /// What it did to the target since the last one.
    Bite(Bite),
    /// Not in force, and never was.
    Refused { why: String },
    /// Taken back by the holder, and read back.
    Cleared { end: End, clean: Clean },
    /// Not in force any more before its time, or only in part. What is left was taken back and read back.
    Lost {
        why: String,
        clean: Clean,
        /// Because the target itself is gone, and not only what was done to it.
        #[serde(default)]
        target_gone: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// The target's process, in the holder's pid namespace.
    pub pid: i32,
    /// The container it belongs to, where its cgroup names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What is done to it, in numbers found at the start.
    pub says: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bite {
    /// Whether the measured effect is what the order asks for.
    pub bit: bool,
    /// The measurement as a sentence.
    pub says: String,
    /// The measurement as numbers, units in the names.
    pub figures: BTreeMap<String, f64>,
}

/// What was found after the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Clean {
    pub clean: bool,
    pub says: String,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// The pipe that the order came on was closed.
    Released,
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
    /// As long as ordered.
    Length,
    /// Nobody reads the events any more.
    Unheard,
    /// Done once, nothing to hold.
    Done,
}

impl Bite {
    pub fn new<const N: usize>(bit: bool, says: impl Into<String>, figures: [(&str, f64); N]) -> Self {
        Bite { bit, says: says.into(), figures: figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
    }
}
