use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gameday::Moment;

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
