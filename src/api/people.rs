use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gameday::Moment;
use super::{Duration, limits, says};

/// A question to people before an experiment: the run waits for yes. Silence is no.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Answered with yes or no.
    #[schemars(length(min = 1, max = 1024))]
    pub ask: String,
    /// No answer after this long is no. The default, 10m, is a person fetched from a meeting.
    #[serde(default = "within_default")]
    pub within: Duration,
}

fn within_default() -> Duration {
    Duration::from_secs(600)
}

/// What people said to a run. Lists that only grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("(!has(oldSelf.approvals) || has(self.approvals)) && (!has(oldSelf.answers) || has(self.answers)) && (!has(oldSelf.notes) || has(self.notes))", says::SAID_STAYS))]
pub struct People {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::SAID))]
    #[x_kube(validation = ("oldSelf.all(said, said in self)", says::SAID_STAYS))]
    pub approvals: Vec<Approval>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::SAID))]
    #[x_kube(validation = ("oldSelf.all(said, said in self)", says::SAID_STAYS))]
    pub answers: Vec<GateAnswer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::SAID))]
    #[x_kube(validation = ("oldSelf.all(said, said in self)", says::SAID_STAYS))]
    pub notes: Vec<Note>,
}

impl People {
    pub fn is_empty(&self) -> bool {
        let People { approvals, answers, notes } = self;
        approvals.is_empty() && answers.is_empty() && notes.is_empty()
    }
}

/// Somebody's yes to a run that a guardrail wants approved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// Who; the admission policy lets nobody write another's name.
    #[schemars(length(min = 1, max = 253))]
    pub by: String,
    /// In which right.
    #[serde(default = "verb_default")]
    #[schemars(length(min = 1, max = 63))]
    pub verb: String,
    #[schemars(with = "Moment")]
    pub at: Timestamp,
    #[schemars(with = "Moment")]
    pub until: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub note: Option<String>,
}

pub(super) fn verb_default() -> String {
    "approve".to_owned()
}

/// Somebody's answer to a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateAnswer {
    #[schemars(length(min = 1, max = 63))]
    pub experiment: String,
    pub yes: bool,
    #[schemars(length(min = 1, max = 253))]
    pub by: String,
    #[schemars(with = "Moment")]
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub note: Option<String>,
}

/// What somebody saw, for the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    #[schemars(length(min = 1, max = 253))]
    pub by: String,
    #[schemars(with = "Moment")]
    pub at: Timestamp,
    #[schemars(length(min = 1, max = 1024))]
    pub text: String,
}
