use clap::Args;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::api::GROUP;

use super::{Exit, Failure, Output};

/// Write the manifests that install the operator: gameday install | kubectl apply -f -
#[derive(Debug, Args)]
pub struct Install {
    /// The operator's image; the Dockerfile builds one
    #[arg(long, default_value = concat!("gameday:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Operators; one leads, the others stand by. 0 installs all but them
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=9))]
    replicas: u16,
}

impl Install {
    /// The namespace is the global option's, `gameday` without.
    pub fn run(self, namespace: Option<&str>, output: &mut Output) -> Result<Exit, Failure> {
        let namespace = namespace.unwrap_or("gameday");
        for manifest in manifests(&self.image, namespace, self.replicas) {
            output.text(&format!("---\n{manifest}"))?;
        }
        Ok(Exit::Passed)
    }
}

/// As YAML.
pub fn yaml(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value).expect("a manifest is plain data")
}

/// Everything, in the order in which it must be applied.
fn manifests(image: &str, namespace: &str, replicas: u16) -> Vec<String> {
    let mut all = vec![yaml(&json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/warn": "restricted",
        }},
    }))];
    all.extend(super::crds::all().iter().map(yaml));
    all.extend(rights(namespace).iter().chain(&rights_of_people()).map(yaml));
    all.push(yaml(&deployment(image, namespace, replicas)));
    // With one replica a budget of one would only block drains.
    if replicas > 1 {
        all.push(yaml(&json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": NAME, "namespace": namespace},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {LABEL: NAME}}},
        })));
    }
    all
}

const NAME: &str = "gameday";
const LABEL: &str = "app.kubernetes.io/name";
const RBAC: &str = "rbac.authorization.k8s.io/v1";
/// Anyone but root; nothing in the image belongs to anyone.
const UID: u32 = 65_532;

/// The operator's rights: every verb has its call.
fn rights(namespace: &str) -> Vec<Json> {
    let role = json!({
        "apiVersion": RBAC,
        "kind": "ClusterRole",
        "metadata": {"name": NAME},
        "rules": [
            {"apiGroups": [GROUP], "resources": ["gamedays", "cords"], "verbs": ["get", "list", "watch"]},
            // patch: a start that replaces a run stops it; delete: runs beyond `keep`.
            {"apiGroups": [GROUP], "resources": ["gamedayruns"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
            {"apiGroups": [GROUP], "resources": ["gamedays/status", "gamedayruns/status"], "verbs": ["update"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "delete"]},
            {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
            // A namespace's deletion reaches its runs only seconds later.
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["get", "list", "watch", "patch"]},
            {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        ],
    });
    let leases = json!({
        "apiVersion": RBAC,
        "kind": "Role",
        "metadata": {"name": NAME, "namespace": namespace},
        "rules": [{
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "verbs": ["get", "list", "watch", "create", "update"],
        }],
    });
    let subject = json!([{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}]);
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": namespace}}),
        role,
        json!({
            "apiVersion": RBAC,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
            "subjects": subject,
        }),
        leases,
        json!({
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": {"name": NAME, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
            "subjects": subject,
        }),
    ]
}

/// What people may do, added to Kubernetes' own roles; the cord is given by name, to whoever may stop everything.
fn rights_of_people() -> [Json; 3] {
    let namespaced = ["gamedays", "gamedayruns"];
    [
        json!({
            "apiVersion": RBAC,
            "kind": "ClusterRole",
            "metadata": {"name": "gameday-view", "labels": {
                "rbac.authorization.k8s.io/aggregate-to-view": "true",
                "rbac.authorization.k8s.io/aggregate-to-edit": "true",
                "rbac.authorization.k8s.io/aggregate-to-admin": "true",
            }},
            "rules": [{"apiGroups": [GROUP], "resources": ["gamedays", "gamedayruns", "cords"], "verbs": ["get", "list", "watch"]}],
        }),
        json!({
            "apiVersion": RBAC,
            "kind": "ClusterRole",
            "metadata": {"name": "gameday-edit", "labels": {
                "rbac.authorization.k8s.io/aggregate-to-edit": "true",
                "rbac.authorization.k8s.io/aggregate-to-admin": "true",
            }},
            "rules": [{"apiGroups": [GROUP], "resources": namespaced, "verbs": ["create", "update", "patch", "delete"]}],
        }),
        json!({
            "apiVersion": RBAC,
            "kind": "ClusterRole",
            "metadata": {"name": "gameday-cord"},
            "rules": [{"apiGroups": [GROUP], "resources": ["cords"], "verbs": ["get", "list", "watch", "create", "delete"]}],
        }),
    ]
}

fn deployment(image: &str, namespace: &str, replicas: u16) -> Json {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let container = json!({
        "name": "operator",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["operator"],
        "env": [field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")],
        "ports": [{"name": "metrics", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "metrics"}},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 5},
        "resources": {
            "requests": {"cpu": "20m", "memory": "32Mi"},
            "limits": {"cpu": "500m", "memory": "128Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": namespace, "labels": {LABEL: NAME}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {LABEL: NAME}},
            "template": {
                "metadata": {"labels": {LABEL: NAME}},
                "spec": {
                    "serviceAccountName": NAME,
                    "terminationGracePeriodSeconds": 15,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": UID,
                        "runAsGroup": UID,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "topologySpreadConstraints": [{
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "ScheduleAnyway",
                        "labelSelector": {"matchLabels": {LABEL: NAME}},
                    }],
                    "containers": [container],
                },
            },
        },
    })
}
