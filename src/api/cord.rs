use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::says;

/// The andon cord. While one exists, nothing is injected, and what is, is reverted.
///
/// Create it to pull, delete it to release. `kubectl create -f -` is enough.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "gameday.dev",
    version = "v1alpha1",
    kind = "Cord",
    category = "gameday-all",
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.by"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self == oldSelf", says::CORD_STAYS))]
pub struct CordSpec {
    /// Why; it is written into every run that it stops.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who pulled it, as they call themselves; the API server's audit log knows for sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub by: Option<String>,
    /// Only runs in these namespaces. Absent or empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub namespaces: Vec<String>,
}

impl CordSpec {
    /// Whether it stops runs in this namespace.
    pub fn covers(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|name| name == namespace)
    }
}
