use clap::Args;
use serde_json::json;

use crate::api::FaultKind;
use crate::engine::permission::FAULTS;

use super::install::yaml;
use super::{Exit, Failure, Output};

/// Write the role by which a namespace consents to faults: gameday allow shop --faults podKill,network | kubectl apply -f -
#[derive(Debug, Args)]
pub struct Allow {
    /// The namespace that may be hit
    namespace: String,
    /// All the faults that the account may inject there, by name, with commas; applied again, they take the place of those
    /// before
    #[arg(long, value_delimiter = ',', required = true, value_parser = fault)]
    faults: Vec<FaultKind>,
    /// The service account that game days there run as
    #[arg(long, default_value = "default")]
    service_account: String,
}

fn fault(name: &str) -> Result<FaultKind, String> {
    let names = || FaultKind::ALL.map(FaultKind::name).join(", ");
    FaultKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("the faults are {}", names()))
}

impl Allow {
    pub fn run(self, output: &mut Output) -> Result<Exit, Failure> {
        let Allow { namespace, faults, service_account } = self;
        // A node belongs to no namespace.
        let on_nodes = |kind: &FaultKind| *kind == FaultKind::Cordon;
        let subject = json!([{"kind": "ServiceAccount", "name": service_account, "namespace": namespace}]);
        let (nodes, pods): (Vec<FaultKind>, Vec<FaultKind>) = faults.iter().partition(|kind| on_nodes(kind));
        let rbac = "rbac.authorization.k8s.io";
        let mut manifest = |role: &str, metadata: serde_json::Value, kinds: &[FaultKind]| {
            let mut rules = vec![json!({
                "apiGroups": [FAULTS],
                "resources": kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
                "verbs": ["inject"],
            })];
            rules.extend(real_rights(kinds));
            let api = format!("{rbac}/v1");
            output.text(&format!(
                "---\n{}---\n{}",
                yaml(&json!({"apiVersion": api, "kind": role, "metadata": metadata, "rules": rules})),
                yaml(&json!({
                    "apiVersion": api,
                    "kind": format!("{role}Binding"),
                    "metadata": metadata,
                    "roleRef": {"apiGroup": rbac, "kind": role, "name": metadata["name"]},
                    "subjects": subject,
                })),
            ))
        };
        if !pods.is_empty() {
            manifest("Role", json!({"name": format!("gameday-faults-{service_account}"), "namespace": namespace}), &pods)?;
        }
        if !nodes.is_empty() {
            manifest("ClusterRole", json!({"name": format!("gameday-faults:{namespace}:{service_account}")}), &nodes)?;
        }
        Ok(Exit::Passed)
    }
}

/// The rights on the real objects: a fault is done in the name of the service account.
fn real_rights(kinds: &[FaultKind]) -> Vec<serde_json::Value> {
    let mut rules = Vec::new();
    let mut rule = |group: &str, resources: &[&str], verb: &str| {
        rules.push(json!({"apiGroups": [group], "resources": resources, "verbs": [verb]}));
    };
    if kinds.contains(&FaultKind::PodKill) {
        rule("", &["pods"], "delete");
    }
    if kinds.contains(&FaultKind::PodEvict) {
        rule("", &["pods/eviction"], "create");
    }
    if kinds.contains(&FaultKind::Scale) {
        rule("apps", &["deployments/scale", "statefulsets/scale"], "patch");
    }
    if kinds.contains(&FaultKind::Cordon) {
        rule("", &["nodes"], "patch");
    }
    if kinds.iter().any(|kind| kind.is_held()) {
        rule(crate::api::GROUP, &["injections"], "create");
    }
    rules
}
