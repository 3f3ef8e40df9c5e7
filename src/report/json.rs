use serde::Serialize;

use crate::api::{GROUP, GameDayRun, GameDayRunSpec, GameDayRunStatus};

use super::name;

/// The report for programs: the run's own spec and status in a small envelope. Fields are added, never renamed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report<'a> {
    pub api_version: String,
    pub kind: &'static str,
    /// `namespace/name`.
    pub run: String,
    pub created: Option<jiff::Timestamp>,
    pub spec: &'a GameDayRunSpec,
    pub status: GameDayRunStatus,
}

/// One JSON object, indented.
pub fn json(run: &GameDayRun) -> String {
    let report = Report {
        api_version: format!("report.{GROUP}/v1alpha1"),
        kind: "Report",
        run: name(run),
        created: run.metadata.creation_timestamp.as_ref().map(|time| time.0),
        spec: &run.spec,
        status: run.status.clone().unwrap_or_default(),
    };
    serde_json::to_string_pretty(&report).expect("a report is plain data") + "\n"
}
