use clap::Args;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::api::{AGENT, GROUP};

use crate::engine::guardrail::BUILT_IN_YAML;
use crate::operator::{agents_namespace, daemon_set};

use super::operator::Agents;
use super::policies;
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
    /// Where agents come from
    #[arg(long, value_enum, default_value_t)]
    agents: Agents,
}

impl Install {
    /// The namespace is the global option's, `gameday` without.
    pub fn run(self, namespace: Option<&str>, output: &mut Output) -> Result<Exit, Failure> {
        let namespace = namespace.unwrap_or("gameday");
        for manifest in manifests(&self.image, namespace, self.replicas, self.agents) {
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
fn manifests(image: &str, namespace: &str, replicas: u16, source: Agents) -> Vec<String> {
    let mut all = vec![yaml(&json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/warn": "restricted",
        }},
    }))];
    // Agents share the pids of their node and have capabilities: that is what `restricted` and `baseline` refuse.
    let agents = agents_namespace(namespace);
    all.push(yaml(&json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": agents, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
    })));
    all.extend(super::crds::all().iter().map(yaml));
    all.extend(rights_of_agents(namespace, &agents).iter().map(yaml));
    all.extend(policies::all(namespace, &agents).iter().map(yaml));
    all.extend(rights(namespace).iter().chain(&rights_of_people()).map(yaml));
    if source == Agents::Standing {
        all.push(yaml(&daemon_set(image, namespace)));
    }
    all.push(yaml(&deployment(image, namespace, replicas, source)));
    // With one replica a budget of one would only block drains.
    if replicas > 1 {
        all.push(yaml(&json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": NAME, "namespace": namespace},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {LABEL: NAME}}},
        })));
    }
    all.push(built_in());
    all
}

/// The built-in guardrail, for whoever reads: the operator makes it. Here it could not be applied, for its kind is only
/// known once what stands above it has been.
fn built_in() -> String {
    let lines = BUILT_IN_YAML.lines().map(|line| if line.is_empty() { "#\n".to_owned() } else { format!("# {line}\n") });
    format!("# The operator makes this guardrail where there is none of its name.\n{}", lines.collect::<String>())
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
            // create: the built-in one, where it is missing.
            {"apiGroups": [GROUP], "resources": ["guardrails"], "verbs": ["get", "list", "watch", "create"]},
            {"apiGroups": [GROUP], "resources": ["guardrails/status"], "verbs": ["update"]},
            {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["list", "watch"]},
            {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ["list", "watch"]},
            // patch: a start that replaces a run stops it; delete: runs beyond `keep`.
            {"apiGroups": [GROUP], "resources": ["gamedayruns"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
            {"apiGroups": [GROUP], "resources": ["gamedays/status", "gamedayruns/status"], "verbs": ["update"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "delete"]},
            {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
            // A namespace's deletion reaches its runs only seconds later.
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": ["get", "list", "watch", "patch"]},
            // Who a network fault is about.
            {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
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

/// What agents may do, and what the operator may do where they live.
fn rights_of_agents(namespace: &str, agents: &str) -> Vec<Json> {
    let leases = "coordination.k8s.io";
    let role = |name: &str, at: &str, rules: Json| json!({"apiVersion": RBAC, "kind": "Role", "metadata": {"name": name, "namespace": at}, "rules": rules});
    let bind = |name: &str, at: &str, account: &str, of: &str| {
        json!({
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": at},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": of}],
        })
    };
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": AGENT, "namespace": agents}}),
        role(
            AGENT,
            agents,
            json!([
                {"apiGroups": [GROUP], "resources": ["injections"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": [GROUP], "resources": ["injections/status"], "verbs": ["patch"]},
                // Each says by a Lease of its own that it is there.
                {"apiGroups": [leases], "resources": ["leases"], "verbs": ["create", "patch"]},
            ]),
        ),
        bind(AGENT, agents, AGENT, agents),
        role(
            AGENT,
            namespace,
            json!([
                {"apiGroups": [leases], "resources": ["leases"], "resourceNames": [NAME], "verbs": ["get", "list", "watch"]},
            ]),
        ),
        bind(AGENT, namespace, AGENT, agents),
        json!({
            "apiVersion": RBAC,
            "kind": "ClusterRole",
            "metadata": {"name": AGENT},
            "rules": [{"apiGroups": [GROUP], "resources": ["cords"], "verbs": ["list", "watch"]}],
        }),
        json!({
            "apiVersion": RBAC,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": AGENT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": AGENT},
            "subjects": [{"kind": "ServiceAccount", "name": AGENT, "namespace": agents}],
        }),
        role(
            NAME,
            agents,
            json!([
                {"apiGroups": [GROUP], "resources": ["injections"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]},
                {"apiGroups": [leases], "resources": ["leases"], "verbs": ["get", "list", "watch"]},
            ]),
        ),
        bind(NAME, agents, NAME, namespace),
        // An agent writes only about its own node: the node's name is a claim of its token.
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": AGENT},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [
                    {"apiGroups": [GROUP], "apiVersions": ["*"], "resources": ["injections", "injections/status"], "operations": ["CREATE", "UPDATE"]},
                    {"apiGroups": [leases], "apiVersions": ["*"], "resources": ["leases"], "operations": ["CREATE", "UPDATE"]},
                ]},
                "matchConditions": [{
                    "name": "an-agent",
                    "expression": format!("request.userInfo.username == 'system:serviceaccount:{agents}:{AGENT}'"),
                }],
                "variables": [{
                    "name": "node",
                    "expression": "request.userInfo.extra[?'authentication.kubernetes.io/node-name'][?0].orValue('')",
                }],
                "validations": [{
                    "expression": "variables.node != '' && (has(object.spec.node) ? object.spec.node : object.metadata.name) == variables.node",
                    "message": "an agent writes only about its own node",
                }],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": AGENT},
            "spec": {"policyName": AGENT, "validationActions": ["Deny"]},
        }),
    ]
}

/// What people may do, added to Kubernetes' own roles; the cord is given by name, to whoever may stop everything.
fn rights_of_people() -> [Json; 4] {
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
            "rules": [{"apiGroups": [GROUP], "resources": ["gamedays", "gamedayruns", "cords", "guardrails"], "verbs": ["get", "list", "watch"]}],
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
        // Given by name, to those whose yes a guardrail asks for.
        json!({
            "apiVersion": RBAC,
            "kind": "ClusterRole",
            "metadata": {"name": "gameday-approve"},
            "rules": [{"apiGroups": [GROUP], "resources": ["gamedayruns"], "verbs": ["get", "list", "watch", "patch", "approve"]}],
        }),
    ]
}

fn deployment(image: &str, namespace: &str, replicas: u16, source: Agents) -> Json {
    let args = match source {
        Agents::OnDemand => json!(["operator", "--agent-image", image]),
        Agents::Standing => json!(["operator", "--agents", "standing"]),
    };
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let container = json!({
        "name": "operator",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": args,
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            // glibc keeps an arena for each of many threads, and memory that was freed: here both are only waste.
            {"name": "MALLOC_ARENA_MAX", "value": "1"},
            {"name": "MALLOC_TRIM_THRESHOLD_", "value": "131072"},
        ],
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
