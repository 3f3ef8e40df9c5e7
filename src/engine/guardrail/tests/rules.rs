use super::*;
use crate::api::{Approval, FaultKind, Selector};

const NOW: &str = "2026-11-24T12:00:00Z";

fn fault(yaml: &str) -> Fault {
    serde_saphyr::from_str(yaml).unwrap()
}

/// The answers to one experiment, without those that allow.
fn against(guardrail: &Named, kind: FaultKind, written: &str, hold: Duration) -> Vec<(&'static str, String, String)> {
    let answers = super::super::kinds::kinds(guardrail, kind, &fault(written), hold);
    answers.into_iter().map(|answer| (answer.rule, answer.sum, answer.way_out)).collect()
}

#[test]
fn the_built_in_guardrail_is_what_install_shows_and_can_be_obeyed() {
    let spec = built_in();
    assert_eq!(check::check(&spec), Ok(()));
    assert_eq!(spec.runs, 1);
    let picture = cluster("checkout", 3, 0);
    let answers = ask_now(&[], &picture, &kill(&picture, &["checkout-0"]));
    assert_eq!(verdict(&answers), Says::Allow, "{answers:#?}");
    assert!(answers.iter().all(|answer| answer.guardrail == BUILT_IN));
    assert_eq!(verdict(&ask_now(&[], &picture, &kill(&picture, &["checkout-0", "checkout-1"]))), Says::Refuse);
}

#[test]
fn the_built_in_guardrail_holds_only_where_no_other_covers() {
    let mut picture = cluster("checkout", 3, 0);
    picture.namespaces.insert("shop".to_owned(), labels(&[("env", "staging")]));
    let mut other = guardrail("namespaceSelector: {matchLabels: {env: production}}");
    let names = |guardrails: &[Named]| -> Vec<String> {
        covering(guardrails, &picture, "shop", &[]).into_iter().map(|guardrail| guardrail.name).collect()
    };
    assert_eq!(names(&[other.clone()]), [BUILT_IN]);
    other.spec.namespace_selector = Some(Selector { match_labels: labels(&[("env", "staging")]), match_expressions: vec![] });
    assert_eq!(names(&[other.clone()]), ["staging"]);
    let edited = Named { name: BUILT_IN.to_owned(), spec: other.spec.clone() };
    assert_eq!(names(&[edited.clone(), other.clone()]), ["staging"]);
    assert_eq!(names(&[edited]), [BUILT_IN]);
    // A namespace of which nothing is known is covered.
    let unknown = covering(&[other], &Picture::default(), "nowhere", &[]);
    assert_eq!(unknown[0].name, "staging");
}

#[test]
fn a_node_brings_the_guardrails_of_the_pods_on_it() {
    let mut picture = cluster("checkout", 2, 0);
    picture.namespaces.insert("shop".to_owned(), labels(&[("env", "production")]));
    picture.namespaces.insert("dev".to_owned(), labels(&[("env", "dev")]));
    let production = guardrail("{namespaceSelector: {matchLabels: {env: production}}, faults: {allow: [podKill]}}");
    let names = |victims: &[Hit]| -> Vec<String> {
        covering(std::slice::from_ref(&production), &picture, "dev", victims)
            .into_iter()
            .map(|guardrail| guardrail.name)
            .collect()
    };
    assert_eq!(names(&[]), [BUILT_IN]);
    assert_eq!(names(&[Picture::hit_node(&picture.nodes[0], Effect::Unschedulable)]), [BUILT_IN, "staging"]);
}

#[test]
fn kinds_holds_and_values_are_refused_with_what_would_do() {
    let limits = guardrail(
        "faults: {allow: [podKill, scale], hold: 5m, values: [{field: podKill.gracePeriod, min: 5s}, {field: scale.percent, min: 50}, \
         {field: scale.replicas, min: 1, max: 8}]}",
    );
    let minute = Duration::from_secs(60);
    let table = [
        (FaultKind::PodKill, "{podKill: {gracePeriod: 5s}}", minute, vec![]),
        (FaultKind::PodKill, "{podKill: {}}", minute, vec![]),
        (
            FaultKind::PodKill,
            "{podKill: {gracePeriod: 0s}}",
            minute,
            vec![("faults.values", "podKill.gracePeriod is 0s, less than 5s", "set podKill.gracePeriod to at least 5s")],
        ),
        (
            FaultKind::Cordon,
            "{cordon: {}}",
            Duration::from_secs(360),
            vec![
                ("faults.allow", "cordon is not among the faults it allows", "use podKill, scale"),
                ("faults.hold", "a hold of 6m is longer than 5m", "hold for at most 5m"),
            ],
        ),
        (FaultKind::Scale, "{scale: {percent: 50}}", minute, vec![]),
        (
            FaultKind::Scale,
            "{scale: {percent: 49}}",
            minute,
            vec![("faults.values", "scale.percent is 49, less than 50", "set scale.percent to at least 50")],
        ),
        (
            FaultKind::Scale,
            "{scale: {replicas: 9}}",
            minute,
            vec![("faults.values", "scale.replicas is 9, more than 8", "set scale.replicas to at most 8")],
        ),
    ];
    for (kind, written, hold, expected) in table {
        let expected: Vec<(&str, String, String)> =
            expected.into_iter().map(|(rule, sum, way_out)| (rule, sum.to_owned(), way_out.to_owned())).collect();
        assert_eq!(against(&limits, kind, written, hold), expected, "{written}");
    }
    let mixed_up = guardrail("faults: {values: [{field: podKill.gracePeriod, min: 5}]}");
    let found = against(&mixed_up, FaultKind::PodKill, "{podKill: {gracePeriod: 9s}}", minute);
    assert_eq!(found[0].1, "podKill.gracePeriod is \"9s\", which cannot be compared with its bound");
    let nothing = guardrail("faults: {allow: []}");
    assert_eq!(against(&nothing, FaultKind::PodKill, "{podKill: {}}", minute)[0].2, "there is none: it allows no faults");
}

#[test]
fn protected_is_protected_by_namespace_owner_name_and_label() {
    let mut picture = cluster("checkout", 3, 0);
    add(&mut picture, "ledger", 3, 0);
    let hits = kill(&picture, &["checkout-0", "ledger-0"]);
    let rules = |yaml: &str, hits: &[Hit]| -> Vec<(String, &'static str)> {
        let answers = ask_now(&[guardrail(yaml)], &picture, hits);
        let against = answers.into_iter().filter(|answer| answer.says == Says::Refuse);
        against.map(|answer| (answer.subject, answer.rule)).collect()
    };
    let ledger = |rule| vec![("Pod shop/ledger-0".to_owned(), rule)];
    assert_eq!(rules("protect: {names: [ledger]}", &hits), ledger("protect.names"));
    assert_eq!(rules("protect: {names: [ledger-0]}", &hits), ledger("protect.names"));
    assert_eq!(rules("protect: {labels: [{matchLabels: {app: ledger}}]}", &hits), ledger("protect.labels"));
    assert_eq!(rules("protect: {namespaces: [bank]}", &hits), []);
    assert_eq!(rules("protect: {namespaces: [shop]}", &hits[1..]), ledger("protect.namespaces"));
    let mut system = hits[..1].to_vec();
    system[0].namespace = Some("kube-system".to_owned());
    assert_eq!(rules("runs: 1", &system), [("Pod kube-system/checkout-0".to_owned(), "protect.namespaces")]);
    let mut own = picture.clone();
    own.own_namespaces.insert("shop".to_owned());
    assert_eq!(verdict(&ask_now(&[guardrail("runs: 1")], &own, &hits)), Says::Refuse);
}

#[test]
fn a_budget_needs_headroom_counted_with_everything_in_force() {
    let mut picture = cluster("checkout", 3, 0);
    let budget = BudgetShown {
        namespace: "shop".to_owned(),
        name: "checkout".to_owned(),
        selector: Some(Selector { match_labels: labels(&[("app", "checkout")]), match_expressions: vec![] }),
        desired_healthy: 2,
        expected: 3,
        counted: true,
    };
    picture.budgets.push(budget.clone());
    let honours = [guardrail("runs: 1")];
    let one = kill(&picture, &["checkout-0"]);
    let says = |picture: &Picture, hits: &[Hit]| {
        let answers = ask_now(&honours, picture, hits);
        answers.into_iter().find(|answer| answer.rule == "budgets").map(|answer| (answer.says, answer.sum))
    };
    assert_eq!(
        says(&picture, &one),
        Some((Says::Allow, "2 of 3 pods would remain healthy (3 are without these); the budget asks for 2".to_owned()))
    );
    assert_eq!(says(&picture, &kill(&picture, &["checkout-0", "checkout-1"])).unwrap().0, Says::Refuse);
    let disturbed: Vec<Hit> = one.iter().cloned().map(|hit| Hit { effect: Effect::Disturbs, ..hit }).collect();
    assert_eq!(says(&picture, &disturbed), None, "a slow pod is still there");
    // By another fault in force, that is no eviction.
    let mut busy = picture.clone();
    busy.in_force = kill(&picture, &["checkout-1"]);
    assert_eq!(
        says(&busy, &one),
        Some((Says::Wait, "1 of 3 pods would remain healthy (2 are without these); the budget asks for 2".to_owned()))
    );
    // It loses its headroom while the fault is held.
    let mut held = picture.clone();
    held.in_force = one.clone();
    assert_eq!(says(&held, &one).unwrap().0, Says::Allow);
    held.pods[2].ready = false;
    assert_eq!(says(&held, &one).unwrap().0, Says::Wait);
    held.budgets[0].counted = false;
    assert_eq!(says(&held, &one).unwrap().1, "its controller has not counted it yet as it is now");
    // None at all.
    let mut none = picture.clone();
    none.budgets[0].desired_healthy = 3;
    let answers = ask_now(&honours, &none, &one);
    assert_eq!(
        sentence(&answers).unwrap(),
        "guardrail staging, budgets, PodDisruptionBudget shop/checkout: 2 of 3 pods would remain healthy (3 are without these); \
         the budget asks for 3. Way out: it allows no disruption at all: change the budget, or hit others"
    );
    assert_eq!(verdict(&ask_now(&[guardrail("budgets: Ignore")], &none, &one)), Says::Allow);
    none.budgets[0].selector = None;
    assert_eq!(verdict(&ask_now(&honours, &none, &one)), Says::Allow, "without a selector it covers nobody");
}

#[test]
fn rollouts_nodes_autoscalers_and_alerts_are_waited_for() {
    let all = [guardrail(
        "moment: {rollout: Namespace, nodeNotReady: true, autoscalerAtMaximum: Targets, alerts: {prometheus: \"http://p:9090\", \
         queries: [{name: burn, query: up}]}}",
    )];
    let mut picture = cluster("checkout", 3, 0);
    add(&mut picture, "ledger", 3, 0);
    let quiet = AlertShown { at: time(NOW), firing: None };
    let alert = ("staging".to_owned(), "burn".to_owned());
    picture.alerts.insert(alert.clone(), quiet.clone());
    let scaler = AutoscalerShown {
        namespace: "shop".to_owned(),
        name: "checkout".to_owned(),
        workload: key("ledger"),
        current: 5,
        max: 5,
    };
    picture.autoscalers.push(scaler);
    let victims = kill(&picture, &["checkout-0"]);
    let waits = |picture: &Picture| -> Vec<String> {
        let answers = asked(&all, picture, &victims, time(NOW));
        assert!(
            answers.iter().all(|answer| answer.says != Says::Refuse && (answer.says == Says::Allow) == answer.way_out.is_empty())
        );
        answers.into_iter().filter(|answer| answer.says == Says::Wait).map(|answer| answer.sum).collect()
    };
    assert_eq!(waits(&picture), [""; 0], "the autoscaler is not that of a target");
    let mut other = picture.clone();
    other.workloads.get_mut(&key("ledger")).unwrap().rolling = Some("1 of 3 updated".to_owned());
    other.autoscalers[0].workload = key("checkout");
    other.nodes[1].ready = false;
    other.alerts.insert(alert.clone(), AlertShown { at: time(NOW), firing: Some("0.3".to_owned()) });
    assert_eq!(
        waits(&other),
        [
            "Deployment shop/ledger rolls out: 1 of 3 updated",
            "the node node2 is not ready",
            "the autoscaler shop/checkout is at its maximum, 5 replicas",
            "burn fires: 0.3",
        ]
    );
    other = picture.clone();
    other.in_force.push(Picture::hit_node(&other.nodes[1], Effect::NodeAway));
    other.nodes[1].ready = false;
    assert_eq!(waits(&other), [""; 0], "a node that a fault of ours took away");
    other = picture.clone();
    other.alerts.insert(alert.clone(), AlertShown { at: time("2026-11-24T11:59:49Z"), firing: None });
    assert_eq!(waits(&other), ["burn: no answer from http://p:9090 since 2026-11-24T11:59:49Z"]);
    other.alerts.clear();
    assert_eq!(waits(&other), ["burn: no answer yet from http://p:9090"]);
}

#[test]
fn an_approval_counts_by_name_verb_and_end() {
    let two = guardrail("approval: {people: 2, longest: 2h}");
    let approval = |by: &str, verb: &str, at: &str, until: &str| Approval {
        by: by.to_owned(),
        verb: verb.to_owned(),
        at: time(at),
        until: time(until),
        note: None,
    };
    let (eleven, thirteen) = ("2026-11-24T11:00:00Z", "2026-11-24T13:00:00Z");
    let good = approval("ada", "approve", eleven, thirteen);
    let table = [
        (vec![], Says::Wait, "approved by 0 of 2 people"),
        (vec![good.clone(), good.clone()], Says::Wait, "approved by 1 of 2 people (ada until 2026-11-24T13:00:00Z)"),
        (
            vec![good.clone(), approval("bob", "approve", eleven, thirteen)],
            Says::Allow,
            "approved by 2 of 2 people (ada until 2026-11-24T13:00:00Z, bob until 2026-11-24T13:00:00Z)",
        ),
        (
            vec![good.clone(), approval("bob", "get", eleven, thirteen)],
            Says::Wait,
            "approved by 1 of 2 people (ada until 2026-11-24T13:00:00Z)",
        ),
        (vec![approval("ada", "approve", eleven, NOW)], Says::Wait, "approved by 0 of 2 people"),
        (vec![approval("ada", "approve", thirteen, "2026-11-24T14:00:00Z")], Says::Wait, "approved by 0 of 2 people"),
        (
            vec![approval("ada", "approve", "2026-11-24T09:59:00Z", "2027-01-01T00:00:00Z")],
            Says::Wait,
            "approved by 0 of 2 people",
        ),
    ];
    for (approvals, says, sum) in table {
        let answer = super::super::approval::approval(&two, &run(), &approvals, time(NOW)).unwrap();
        assert_eq!((answer.says, answer.sum.as_str()), (says, sum), "{approvals:#?}");
    }
    let none = super::super::approval::approval(&two, &run(), &[], time(NOW)).unwrap();
    assert_eq!(none.way_out, "somebody who may approve gamedayruns runs: gameday approve checkout-1 --namespace shop");
}

#[test]
fn wider_only_after_narrower_on_the_same_images() {
    let stages = [guardrail("promotion: {stages: [{targets: 1}, {percent: 20}, {percent: 50}], days: 14}")];
    let picture = cluster("checkout", 10, 0);
    let pass = |hit: usize, finished: &str, image: &str| Pass {
        namespace: "shop".to_owned(),
        game_day: "checkout".to_owned(),
        experiment: "lose-a-pod".to_owned(),
        kind: FaultKind::PodKill,
        run: "checkout-0".to_owned(),
        finished: time(finished),
        hit,
        candidates: 10,
        images: BTreeSet::from([image.to_owned()]),
    };
    let says = |count: usize, passes: &[Pass]| {
        let victims = kill_last(&picture, "checkout", count);
        let written = fault("{podKill: {}}");
        let asked = Asked {
            run: &run(),
            game_day: "checkout",
            experiment: "lose-a-pod",
            kind: FaultKind::PodKill,
            fault: &written,
            hold: Duration::from_secs(30),
            victims: &victims,
            candidates: 10,
            approvals: &[],
            passes,
            stage: Stage::Starting,
        };
        let answers = ask(&stages, &picture, &asked, time(NOW));
        let answer = answers.into_iter().find(|answer| answer.rule == "promotion").unwrap();
        (answer.says, answer.sum)
    };
    let recent = "2026-11-20T12:00:00Z";
    assert_eq!(says(1, &[]).0, Says::Allow);
    let never = "2 of 10 is wider than 1 target, at which it has not passed within 14 days on these images";
    assert_eq!(says(2, &[]), (Says::Refuse, never.to_owned()));
    assert_eq!(says(2, &[pass(1, recent, "checkout:1")]).0, Says::Allow);
    assert_eq!(says(2, &[pass(5, recent, "checkout:1")]).0, Says::Allow, "wider includes narrower");
    assert_eq!(says(5, &[pass(1, recent, "checkout:1")]).0, Says::Refuse, "a stage cannot be skipped");
    assert_eq!(says(6, &[pass(5, recent, "checkout:1")]).0, Says::Allow, "beyond the last stage");
    assert_eq!(says(2, &[pass(1, recent, "checkout:0")]), (Says::Refuse, format!("{never} (checkout-0 hit other images)")));
    let old = says(2, &[pass(1, "2026-11-01T12:00:00Z", "checkout:1")]);
    assert_eq!(old, (Says::Refuse, format!("{never} (checkout-0 is more than 14 days ago)")));
    let other = Pass { experiment: "another".to_owned(), ..pass(1, recent, "checkout:1") };
    assert_eq!(says(2, &[other]), (Says::Refuse, never.to_owned()));
}

#[test]
fn what_is_not_read_yet_is_waited_for() {
    let picture = Picture { synced: false, ..cluster("checkout", 3, 0) };
    assert_eq!(verdict(&ask_now(&[guardrail("runs: 1")], &picture, &kill(&picture, &["checkout-0"]))), Says::Wait);
}
