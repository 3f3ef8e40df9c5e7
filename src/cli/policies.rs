//! Admission policies: what the API server refuses by itself, so that it holds also while no operator runs.

use serde_json::{Value as Json, json};

use crate::api::{FaultKind, GROUP};
use crate::engine::guardrail::BUILT_IN;

const ADMISSION: &str = "admissionregistration.k8s.io/v1";

fn policy(name: &str, spec: Json) -> Json {
    json!({"apiVersion": ADMISSION, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec})
}

fn binding(name: &str, parameters: Option<Json>) -> Json {
    let mut spec = json!({"policyName": name, "validationActions": ["Deny"]});
    if let Some(parameters) = parameters {
        spec["paramRef"] = parameters;
    }
    json!({"apiVersion": ADMISSION, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}, "spec": spec})
}

fn on(resources: &[&str], operations: &[&str]) -> Json {
    json!({"resourceRules": [
        {"apiGroups": [GROUP], "apiVersions": ["*"], "resources": resources, "operations": operations},
    ]})
}

pub fn all(namespace: &str, agents: &str) -> Vec<Json> {
    let people = "gameday-people";
    let protected = "gameday-protected";
    let guardrails = "gameday-guardrails";
    vec![
        policy(people, said()),
        binding(people, None),
        policy(
            protected,
            json!({
                "failurePolicy": "Fail",
                "matchConstraints": on(&["gamedays", "gamedayruns"], &["CREATE", "UPDATE"]),
                "validations": [{
                    "expression": format!("!(object.metadata.namespace in ['kube-system', '{namespace}', '{agents}'])"),
                    "message": "what runs the cluster and the game days is not hit: no game days in its namespaces",
                }],
            }),
        ),
        binding(protected, None),
        policy(guardrails, limits()),
        binding(guardrails, Some(json!({"selector": {}, "parameterNotFoundAction": "Allow"}))),
    ]
}

/// Nobody writes in another's name, and nobody approves without the right.
fn said() -> Json {
    let list = |of: &str, list: &str| {
        format!("{of} != null && has({of}.spec.people) && has({of}.spec.people.{list}) ? {of}.spec.people.{list} : []")
    };
    let lists = ["approvals", "answers", "notes"];
    let mut variables = Vec::new();
    for name in lists {
        variables.push(json!({"name": name, "expression": list("object", name)}));
        variables.push(json!({"name": format!("{name}Before"), "expression": list("oldObject", name)}));
    }
    let mut validations: Vec<Json> = lists
        .iter()
        .map(|name| {
            json!({
                "expression": format!(
                    "variables.{name}.all(said, said in variables.{name}Before || said.by == request.userInfo.username)"
                ),
                "message": "everybody speaks for themselves: by is who you are (kubectl auth whoami)",
            })
        })
        .collect();
    validations.push(json!({
        "expression": format!(
            "variables.approvals.all(said, said in variables.approvalsBefore || \
             authorizer.group('{GROUP}').resource('gamedayruns').namespace(object.metadata.namespace)\
             .name(object.metadata.name).check(said.verb).allowed())"
        ),
        "message": "an approval needs the right that it names, on gamedayruns",
        "reason": "Forbidden",
    }));
    json!({
        "failurePolicy": "Fail",
        "matchConstraints": on(&["gamedayruns"], &["CREATE", "UPDATE"]),
        "variables": variables,
        "validations": validations,
    })
}

/// What of a guardrail does not depend on the cluster's state: kinds, longest hold, protected namespaces.
fn limits() -> Json {
    let labels = "(has(namespaceObject.metadata.labels) ? namespaceObject.metadata.labels : {})";
    let selector = "params.spec.namespaceSelector";
    let covers = format!(
        "params.metadata.name != '{BUILT_IN}' && (!has({selector}) || (\
         (!has({selector}.matchLabels) || {selector}.matchLabels.all(key, key in {labels} && {labels}[key] == {selector}.matchLabels[key])) && \
         (!has({selector}.matchExpressions) || {selector}.matchExpressions.all(term, \
         term.operator == 'Exists' ? term.key in {labels} : \
         term.operator == 'DoesNotExist' ? !(term.key in {labels}) : \
         term.operator == 'In' ? term.key in {labels} && {labels}[term.key] in term.values : \
         !(term.key in {labels} && {labels}[term.key] in term.values)))))"
    );
    let allowed: Vec<String> = FaultKind::ALL
        .iter()
        .map(|kind| format!("(!has(one.fault.{kind}) || '{kind}' in params.spec.faults.allow)", kind = kind.name()))
        .collect();
    let says = |rule: &str, way_out: &str| format!("'guardrail ' + params.metadata.name + ', {rule}. Way out: {way_out}");
    json!({
        "failurePolicy": "Fail",
        "paramKind": {"apiVersion": format!("{GROUP}/v1alpha1"), "kind": "Guardrail"},
        "matchConstraints": on(&["gamedays", "gamedayruns"], &["CREATE", "UPDATE"]),
        // A run that is stopped, or that somebody says something to, is not asked again.
        "matchConditions": [{
            "name": "what-is-run-is-new",
            "expression": "oldObject == null || (object.kind == 'GameDay' ? object.spec != oldObject.spec : false)",
        }],
        "variables": [
            {"name": "covers", "expression": covers},
            {
                "name": "experiments",
                "expression": "object.kind == 'GameDay' ? object.spec.experiments : object.spec.gameDay.experiments",
            },
            {"name": "faults", "expression": "has(params.spec.faults) && variables.covers"},
        ],
        "validations": [
            {
                "expression": format!(
                    "!variables.faults || !has(params.spec.faults.allow) || variables.experiments.all(one, {})",
                    allowed.join(" && ")
                ),
                "messageExpression": says("faults.allow: a fault is not among those it allows", "use ' + (size(params.spec.faults.allow) == 0 ? 'none: it allows no faults' : params.spec.faults.allow.join(', '))"),
            },
            {
                "expression": "!variables.faults || !has(params.spec.faults.hold) || \
                    variables.experiments.all(one, duration(one.hold) <= duration(params.spec.faults.hold))",
                "messageExpression": says("faults.hold: a fault is held longer than it allows", "hold it at most ' + params.spec.faults.hold"),
            },
            {
                "expression": "!variables.covers || !has(params.spec.protect) || !has(params.spec.protect.namespaces) || \
                    !(object.metadata.namespace in params.spec.protect.namespaces)",
                "messageExpression": says("protect.namespaces: ' + object.metadata.namespace + ' is protected", "choose targets in another namespace'"),
            },
        ],
    })
}
