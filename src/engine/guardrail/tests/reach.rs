use proptest::prelude::*;

use super::*;
use crate::api::{Cap, Percent, ReachRule, ReadyAtLeast, SingleReplica};

/// replicas, not ready, in force by others, chosen, rule → what it says, and the sum.
#[test]
fn what_percentages_come_to_with_some_not_ready() {
    use Says::{Allow, Refuse, Wait};
    let table = [
        // 1 replica
        (1, 0, 0, 1, "workload: {percent: 50}", Refuse, "1 of 1 pods at once; the guardrail allows 0 (50 % of 1 is 0)"),
        (1, 0, 0, 1, "workload: {percent: 100}", Allow, "1 of 1 pods at once; the guardrail allows 1 (100 % of 1 is 1)"),
        (1, 0, 0, 1, "readyLeft: {count: 1}", Refuse, "0 of 1 ready replicas would remain; the guardrail asks for 1"),
        // 2 replicas
        (2, 0, 0, 1, "workload: {percent: 50}", Allow, "1 of 2 pods at once; the guardrail allows 1 (50 % of 2 is 1)"),
        (2, 0, 0, 1, "workload: {percent: 49}", Refuse, "1 of 2 pods at once; the guardrail allows 0 (49 % of 2 is 0)"),
        (
            2,
            1,
            0,
            1,
            "workload: {percent: 50}",
            Wait,
            "2 of 2 pods at once (1 hit, missing or not ready already); the guardrail allows 1 (50 % of 2 is 1)",
        ),
        (
            2,
            1,
            0,
            1,
            "readyLeft: {count: 1}",
            Wait,
            "0 of 2 ready replicas would remain (1 hit, missing or not ready already); the guardrail asks for 1",
        ),
        (
            2,
            0,
            0,
            1,
            "readyLeft: {percent: 50}",
            Allow,
            "1 of 2 ready replicas would remain; the guardrail asks for 1 (50 % of 2, rounded up)",
        ),
        (
            2,
            0,
            0,
            1,
            "readyLeft: {percent: 51}",
            Refuse,
            "1 of 2 ready replicas would remain; the guardrail asks for 2 (51 % of 2, rounded up)",
        ),
        // 3 replicas
        (3, 0, 0, 1, "readyLeft: {count: 3}", Refuse, "2 of 3 ready replicas would remain; the guardrail asks for 3"),
        (3, 0, 0, 1, "readyLeft: {count: 2}", Allow, "2 of 3 ready replicas would remain; the guardrail asks for 2"),
        (
            3,
            1,
            0,
            1,
            "readyLeft: {count: 2}",
            Wait,
            "1 of 3 ready replicas would remain (1 hit, missing or not ready already); the guardrail asks for 2",
        ),
        (
            3,
            0,
            1,
            1,
            "readyLeft: {count: 2}",
            Wait,
            "1 of 3 ready replicas would remain (1 hit, missing or not ready already); the guardrail asks for 2",
        ),
        (3, 0, 0, 1, "workload: {percent: 33}", Refuse, "1 of 3 pods at once; the guardrail allows 0 (33 % of 3 is 0)"),
        (3, 0, 0, 1, "workload: {percent: 34}", Allow, "1 of 3 pods at once; the guardrail allows 1 (34 % of 3 is 1)"),
        (
            3,
            0,
            0,
            2,
            "workload: {targets: 2, percent: 34}",
            Refuse,
            "2 of 3 pods at once; the guardrail allows 1 (the smaller of 2 and 34 % of 3 is 1)",
        ),
        (
            3,
            0,
            1,
            1,
            "workload: {percent: 34}",
            Wait,
            "2 of 3 pods at once (1 hit, missing or not ready already); the guardrail allows 1 (34 % of 3 is 1)",
        ),
        (
            3,
            1,
            1,
            1,
            "workload: {percent: 67}",
            Wait,
            "3 of 3 pods at once (2 hit, missing or not ready already); the guardrail allows 2 (67 % of 3 is 2)",
        ),
        // 10 replicas
        (10, 0, 0, 3, "workload: {percent: 34}", Allow, "3 of 10 pods at once; the guardrail allows 3 (34 % of 10 is 3)"),
        (10, 0, 0, 4, "workload: {percent: 39}", Refuse, "4 of 10 pods at once; the guardrail allows 3 (39 % of 10 is 3)"),
        (
            10,
            2,
            0,
            3,
            "workload: {targets: 5}",
            Allow,
            "5 of 10 pods at once (2 hit, missing or not ready already); the guardrail allows 5",
        ),
        (
            10,
            2,
            1,
            3,
            "workload: {targets: 5}",
            Wait,
            "6 of 10 pods at once (3 hit, missing or not ready already); the guardrail allows 5",
        ),
        (
            10,
            4,
            0,
            1,
            "readyLeft: {percent: 60}",
            Wait,
            "5 of 10 ready replicas would remain (4 hit, missing or not ready already); the guardrail asks for 6 (60 % of 10, rounded up)",
        ),
        (
            10,
            0,
            0,
            4,
            "readyLeft: {percent: 60}",
            Allow,
            "6 of 10 ready replicas would remain; the guardrail asks for 6 (60 % of 10, rounded up)",
        ),
        (
            10,
            0,
            0,
            5,
            "readyLeft: {percent: 60}",
            Refuse,
            "5 of 10 ready replicas would remain; the guardrail asks for 6 (60 % of 10, rounded up)",
        ),
        (10, 0, 0, 2, "namespace: {percent: 10}", Refuse, "2 of 10 pods at once; the guardrail allows 1 (10 % of 10 is 1)"),
        // on a node of five
        (10, 0, 0, 1, "node: {percent: 20}", Allow, "1 of 5 pods at once; the guardrail allows 1 (20 % of 5 is 1)"),
        (10, 1, 0, 1, "zone: {percent: 20}", Allow, "1 of 5 pods at once; the guardrail allows 1 (20 % of 5 is 1)"),
        (
            10,
            2,
            0,
            1,
            "zone: {percent: 20}",
            Wait,
            "2 of 5 pods at once (1 hit, missing or not ready already); the guardrail allows 1 (20 % of 5 is 1)",
        ),
    ];
    for (replicas, not_ready, others, chosen, rule, says, sum) in table {
        let mut picture = cluster("checkout", replicas, not_ready);
        let last = kill_last(&picture, "checkout", chosen + others);
        picture.in_force = last[chosen..].to_vec();
        let guardrails = [guardrail(&format!("reach: {{{rule}, singleReplica: Allow}}"))];
        let answers = ask_now(&guardrails, &picture, &last[..chosen]);
        let case = format!("{replicas} replicas, {not_ready} not ready, {others} in force, {chosen} chosen, {rule}");
        assert_eq!(answers.len(), 1, "{case}: {answers:#?}");
        assert_eq!((answers[0].says, answers[0].sum.as_str()), (says, sum), "{case}");
        assert_eq!(answers[0].way_out.is_empty(), says == Allow, "{case}: {}", answers[0].way_out);
    }
}

#[test]
fn a_zone_cap_and_a_workload_cap_that_disagree_show_both_sums() {
    let picture = cluster("checkout", 6, 0);
    let guardrails = [guardrail("reach: {workload: {percent: 50}, zone: {targets: 1}}")];
    let victims = kill(&picture, &["checkout-0", "checkout-2"]);
    let answers = ask_now(&guardrails, &picture, &victims);
    assert_eq!(verdict(&answers), Says::Refuse);
    assert_eq!(
        sentence(&answers).unwrap(),
        "guardrail staging, reach.zone, zone zone-1: 2 of 3 pods at once; the guardrail allows 1; guardrail staging, \
         reach.workload, Deployment shop/checkout: 2 of 6 pods at once; the guardrail allows 3 (50 % of 6 is 3). Way out: \
         choose at most 1 pods of zone zone-1"
    );
}

#[test]
fn a_killed_pod_counts_until_its_replacement_is_ready_and_only_once() {
    let guardrails = [guardrail("reach: {workload: {targets: 1}, readyLeft: {count: 2}}")];
    let mut picture = cluster("checkout", 3, 0);
    let killed = kill(&picture, &["checkout-0"]);
    picture.in_force = killed.clone();
    let says = |picture: &Picture| verdict(&ask_now(&guardrails, picture, &kill(picture, &["checkout-1"])));
    let held = |picture: &Picture| verdict(&ask_now(&guardrails, picture, &killed));
    assert_eq!((held(&picture), says(&picture)), (Says::Allow, Says::Wait), "ordered");
    picture.pods[0].terminating = true;
    assert_eq!((held(&picture), says(&picture)), (Says::Allow, Says::Wait), "on its way out");
    picture.pods.remove(0);
    assert_eq!((held(&picture), says(&picture)), (Says::Allow, Says::Wait), "gone");
    let mut replacement = picture.pods[0].clone();
    replacement.uid = "new".to_owned();
    replacement.name = "checkout-new".to_owned();
    replacement.ready = false;
    picture.pods.push(replacement);
    assert_eq!((held(&picture), says(&picture)), (Says::Allow, Says::Wait), "replaced, not ready");
    picture.pods[2].ready = true;
    assert_eq!((held(&picture), says(&picture)), (Says::Allow, Says::Wait), "replaced, and not known to be over");
    picture.in_force.clear();
    assert_eq!(says(&picture), Says::Allow, "replaced");
}

#[test]
fn a_pod_that_goes_by_itself_while_a_fault_is_held_ends_it() {
    let guardrails = [guardrail("reach: {readyLeft: {count: 2}}")];
    let mut picture = cluster("checkout", 3, 0);
    let killed = kill(&picture, &["checkout-0"]);
    picture.in_force = killed.clone();
    assert_eq!(verdict(&ask_now(&guardrails, &picture, &killed)), Says::Allow);
    picture.pods[2].ready = false;
    let answers = ask_now(&guardrails, &picture, &killed);
    assert_eq!(
        answers[0].sum,
        "1 of 3 ready replicas would remain (1 hit, missing or not ready already); the guardrail asks for 2"
    );
}

#[test]
fn a_scaled_workload_counts_the_same_before_and_after_it_has_bitten() {
    let guardrails = [guardrail("reach: {workload: {targets: 2}, readyLeft: {count: 2}}")];
    let mut picture = cluster("checkout", 4, 0);
    let scaled = |from, to| Hit {
        target: crate::engine::TargetId {
            kind: crate::api::TargetKind::Deployment,
            name: "checkout".to_owned(),
            uid: "d".to_owned(),
        },
        namespace: Some("shop".to_owned()),
        node: None,
        owner: Some(key("checkout")),
        labels: labels(&[("app", "checkout")]),
        effect: Effect::Scales { from, to },
    };
    assert_eq!(verdict(&ask_now(&guardrails, &picture, &[scaled(4, 1)])), Says::Refuse);
    assert_eq!(verdict(&ask_now(&guardrails, &picture, &[scaled(4, 9)])), Says::Allow, "growing takes nothing away");
    let wished = [scaled(4, 2)];
    let before = ask_now(&guardrails, &picture, &wished);
    assert_eq!(before[1].sum, "2 of 4 ready replicas would remain; the guardrail asks for 2");
    picture.in_force = wished.to_vec();
    picture.pods.truncate(2);
    picture.workloads.get_mut(&key("checkout")).unwrap().replicas = 2;
    assert_eq!(ask_now(&guardrails, &picture, &wished), before);
    assert_eq!(verdict(&ask_now(&guardrails, &picture, &kill(&picture, &["checkout-0"]))), Says::Wait);
}

#[test]
fn a_single_replica_is_spared_unless_it_is_named() {
    let mut picture = cluster("checkout", 3, 0);
    add(&mut picture, "ledger", 1, 0);
    add(&mut picture, "cron", 1, 0);
    picture.pods[4].owner = None;
    let victims = kill(&picture, &["checkout-0", "ledger-0", "cron-0"]);
    let spares = [guardrail("runs: 1")];
    let subjects: Vec<Option<String>> =
        spared(&spares, &picture, &victims).into_iter().map(|answer| answer.map(|answer| answer.subject)).collect();
    assert_eq!(subjects, [None, Some("Deployment shop/ledger".to_owned()), Some("Pod shop/cron-0".to_owned())]);
    let answers = ask_now(&spares, &picture, &victims);
    assert_eq!(answers.iter().filter(|answer| answer.says == Says::Refuse).count(), 2, "{answers:#?}");
    let named = [guardrail("reach: {except: [{namespace: shop, name: ledger}, {namespace: shop, name: cron-0}]}")];
    assert_eq!(spared(&named, &picture, &victims), [None, None, None]);
    assert_eq!(verdict(&ask_now(&named, &picture, &victims)), Says::Allow);
}

#[test]
fn nodes_that_are_cordoned_or_not_ready_count_already() {
    let guardrails = [guardrail("reach: {nodes: {targets: 1, percent: 50}, zone: {targets: 1}}")];
    let mut picture = cluster("checkout", 4, 0);
    let cordon = |picture: &Picture, index: usize| vec![Picture::hit_node(&picture.nodes[index], Effect::Unschedulable)];
    assert_eq!(verdict(&ask_now(&guardrails, &picture, &cordon(&picture, 0))), Says::Allow);
    picture.nodes[1].schedulable = false;
    let answers = ask_now(&guardrails, &picture, &cordon(&picture, 0));
    let nodes = answers.iter().find(|answer| answer.rule == "reach.nodes").unwrap();
    assert_eq!(
        (nodes.says, nodes.sum.as_str()),
        (
            Says::Wait,
            "2 of 2 nodes at once (1 hit, missing or not ready already); the guardrail allows 1 (the smaller of 1 and 50 % of 2 is 1)"
        )
    );
}

#[test]
fn a_node_that_goes_takes_its_pods_with_it() {
    let guardrails = [guardrail("reach: {workload: {targets: 1}}")];
    let picture = cluster("checkout", 4, 0);
    let away = [Picture::hit_node(&picture.nodes[0], Effect::NodeAway)];
    let answers = ask_now(&guardrails, &picture, &away);
    assert_eq!((answers[0].says, answers[0].sum.as_str()), (Says::Refuse, "2 of 4 pods at once; the guardrail allows 1"));
}

#[test]
fn a_guardrail_counts_only_what_it_covers() {
    let mut picture = cluster("checkout", 4, 0);
    picture.namespaces.insert("shop".to_owned(), labels(&[("env", "staging")]));
    picture.namespaces.insert("other".to_owned(), labels(&[("env", "dev")]));
    let mut foreign = picture.pods[0].clone();
    foreign.namespace = "other".to_owned();
    foreign.uid = "foreign".to_owned();
    foreign.ready = false;
    picture.pods.push(foreign);
    let yaml = "{namespaceSelector: {matchLabels: {env: staging}}, reach: {node: {targets: 1}}}";
    let staging = [guardrail(yaml)];
    assert_eq!(verdict(&ask_now(&staging, &picture, &kill(&picture, &["checkout-0"]))), Says::Allow);
    let everything = [guardrail("reach: {node: {targets: 1}}")];
    assert_eq!(verdict(&ask_now(&everything, &picture, &kill(&picture, &["checkout-0"]))), Says::Wait);
}

/// A random cluster: workloads of 1 to 10 replicas in two namespaces over four nodes in two zones, with pods
/// missing, not ready, on their way out, and owned by nobody.
fn pictures() -> impl Strategy<Value = Picture> {
    let pod = (0..4usize, 0..10u8);
    let workload = (1..=10usize, prop::collection::vec(pod, 0..12), 0..2usize);
    let nodes = prop::collection::vec((prop::bool::weighted(0.9), prop::bool::weighted(0.9)), 4);
    (prop::collection::vec(workload, 1..5), nodes).prop_map(|(workloads, nodes)| {
        let mut picture = Picture { synced: true, ..Picture::default() };
        for (index, (ready, schedulable)) in nodes.into_iter().enumerate() {
            picture.nodes.push(NodeShown {
                name: format!("node{index}"),
                uid: format!("node{index}"),
                labels: BTreeMap::new(),
                zone: Some(format!("zone{}", index % 2)),
                ready,
                schedulable,
            });
        }
        for (number, (replicas, pods, namespace)) in workloads.into_iter().enumerate() {
            let namespace = ["shop", "bank"][namespace].to_owned();
            let name = format!("app{number}");
            let key = WorkloadKey { namespace: namespace.clone(), kind: "Deployment".to_owned(), name: name.clone() };
            picture.namespaces.entry(namespace.clone()).or_default();
            let pod_labels = labels(&[("app", &name)]);
            picture.workloads.insert(key.clone(), WorkloadShown { replicas, pod_labels: pod_labels.clone(), rolling: None });
            for (index, (node, fate)) in pods.into_iter().enumerate() {
                picture.pods.push(PodShown {
                    namespace: namespace.clone(),
                    name: format!("{name}-{index}"),
                    uid: format!("{name}-{index}"),
                    labels: pod_labels.clone(),
                    node: Some(format!("node{node}")),
                    owner: (fate != 9).then(|| key.clone()),
                    ready: fate > 1,
                    terminating: fate == 0,
                    images: BTreeSet::new(),
                });
            }
            picture.budgets.push(BudgetShown {
                namespace: namespace.clone(),
                name,
                selector: Some(crate::api::Selector { match_labels: pod_labels, match_expressions: vec![] }),
                desired_healthy: replicas / 2,
                expected: replicas,
                counted: true,
            });
        }
        picture
    })
}

fn caps() -> impl Strategy<Value = Option<Cap>> {
    let cap = (prop::option::of(0..6i32), prop::option::of(1..=100i64)).prop_map(|(targets, percent)| Cap {
        targets: targets.or(if percent.is_none() { Some(2) } else { None }),
        percent: percent.map(|percent| Percent::new(percent).unwrap()),
    });
    prop::option::weighted(0.7, cap)
}

fn reaches() -> impl Strategy<Value = ReachRule> {
    let ready = prop::option::of(prop_oneof![
        (0..4i32).prop_map(|count| ReadyAtLeast { count: Some(count), percent: None }),
        (1..=100i64).prop_map(|percent| ReadyAtLeast { count: None, percent: Some(Percent::new(percent).unwrap()) }),
    ]);
    (caps(), caps(), caps(), caps(), caps(), ready, any::<bool>()).prop_map(
        |(workload, namespace, node, zone, nodes, ready_left, spare)| ReachRule {
            workload,
            namespace,
            node,
            zone,
            nodes,
            ready_left,
            single_replica: if spare { SingleReplica::Spare } else { SingleReplica::Allow },
            except: vec![],
        },
    )
}

fn named(reach: ReachRule) -> Named {
    let mut guardrail = guardrail("runs: 1");
    guardrail.spec.reach = reach;
    guardrail
}

/// A wish for each pod, and for each node, in some order.
fn wishes(picture: &Picture, order: &[prop::sample::Index]) -> Vec<Hit> {
    let pods = picture
        .pods
        .iter()
        .filter(|pod| !pod.terminating)
        .enumerate()
        .map(|(index, pod)| Picture::hit_pod(pod, if index % 3 == 0 { Effect::Disturbs } else { Effect::TakesAway }));
    let nodes = picture
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| Picture::hit_node(node, if index % 2 == 0 { Effect::Unschedulable } else { Effect::NodeAway }));
    let all: Vec<Hit> = pods.chain(nodes).collect();
    order.iter().map(|index| index.get(&all).clone()).collect()
}

fn allowed(cap: &Cap, whole: usize) -> usize {
    let targets = cap.targets.map_or(usize::MAX, |targets| targets as usize);
    targets.min(cap.percent.map_or(usize::MAX, |percent| whole * usize::from(percent.get()) / 100))
}

/// Counts anew and in another way: nobody hit, by all faults in force, is above a cap.
fn never_above(reach: &ReachRule, picture: &Picture, hit: &[Hit]) -> Result<(), TestCaseError> {
    let away: BTreeSet<&str> =
        hit.iter().filter(|hit| hit.effect == Effect::NodeAway).map(|hit| hit.target.name.as_str()).collect();
    let is_hit = |pod: &PodShown| {
        hit.iter().any(|hit| hit.target.uid == pod.uid) || pod.node.as_deref().is_some_and(|node| away.contains(node))
    };
    let live: Vec<&PodShown> = picture.pods.iter().filter(|pod| !pod.terminating).collect();
    for (key, workload) in &picture.workloads {
        let own: Vec<&&PodShown> = live.iter().filter(|pod| pod.owner.as_ref() == Some(key)).collect();
        let hits = own.iter().filter(|pod| is_hit(pod)).count();
        if hits == 0 {
            continue;
        }
        let whole = own.len().max(workload.replicas);
        let down = own.iter().filter(|pod| !is_hit(pod) && !pod.ready).count() + workload.replicas.saturating_sub(own.len());
        if let Some(cap) = &reach.workload {
            prop_assert!(hits + down <= allowed(cap, whole), "{key}: {hits} + {down} of {whole}");
        }
        if let Some(ready) = &reach.ready_left {
            let need = match (ready.count, ready.percent) {
                (Some(count), _) => count as usize,
                (None, percent) => (whole * usize::from(percent.unwrap().get())).div_ceil(100),
            };
            let left = own.iter().filter(|pod| !is_hit(pod) && pod.ready).count();
            prop_assert!(left >= need, "{key}: {left} left, {need} needed");
        }
        prop_assert!(reach.single_replica == SingleReplica::Allow || workload.replicas > 1, "{key} has one replica");
    }
    for namespace in ["shop", "bank"] {
        let own: Vec<&&PodShown> = live.iter().filter(|pod| pod.namespace == namespace).collect();
        let hits = own.iter().filter(|pod| is_hit(pod)).count();
        let down = own.iter().filter(|pod| !is_hit(pod) && !pod.ready).count();
        if let Some(cap) = &reach.namespace
            && hits > 0
        {
            // Missing pods make the whole larger and count as well: without them it is a lower bound of both.
            let missing: usize = picture
                .workloads
                .iter()
                .filter(|(key, _)| key.namespace == namespace)
                .map(|(key, workload)| {
                    workload.replicas.saturating_sub(live.iter().filter(|pod| pod.owner.as_ref() == Some(key)).count())
                })
                .sum();
            prop_assert!(hits + down + missing <= allowed(cap, own.len() + missing), "{namespace}: {hits} + {down} + {missing}");
        }
    }
    for group in ["node0", "node1", "node2", "node3", "zone0", "zone1"] {
        let inside = |node: &NodeShown| node.name == group || node.zone.as_deref() == Some(group);
        let nodes: Vec<&NodeShown> = picture.nodes.iter().filter(|node| inside(node)).collect();
        let own: Vec<&&PodShown> =
            live.iter().filter(|pod| nodes.iter().any(|node| Some(&node.name) == pod.node.as_ref())).collect();
        let hits = own.iter().filter(|pod| is_hit(pod)).count();
        let down = own.iter().filter(|pod| !is_hit(pod) && !pod.ready).count();
        let cap = if group.starts_with("zone") { &reach.zone } else { &reach.node };
        if let Some(cap) = cap
            && hits > 0
        {
            prop_assert!(hits + down <= allowed(cap, own.len()), "{group}: {hits} + {down} of {}", own.len());
        }
    }
    let hits = picture.nodes.iter().filter(|node| hit.iter().any(|hit| hit.target.uid == node.uid)).count();
    let down = picture
        .nodes
        .iter()
        .filter(|node| hit.iter().all(|hit| hit.target.uid != node.uid) && (!node.ready || !node.schedulable));
    if let Some(cap) = &reach.nodes
        && hits > 0
    {
        prop_assert!(hits + down.count() <= allowed(cap, picture.nodes.len()));
    }
    for budget in &picture.budgets {
        let covered =
            |pod: &PodShown| pod.namespace == budget.namespace && budget.selector.as_ref().unwrap().matches(&pod.labels);
        let gone = |pod: &PodShown| {
            hit.iter().any(|hit| hit.target.uid == pod.uid && hit.effect == Effect::TakesAway)
                || pod.node.as_deref().is_some_and(|node| away.contains(node))
        };
        if live.iter().any(|pod| covered(pod) && gone(pod)) {
            let healthy = live.iter().filter(|pod| covered(pod) && pod.ready && !gone(pod)).count();
            prop_assert!(healthy >= budget.desired_healthy, "budget {}: {healthy} healthy", budget.name);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Runs that take whatever is allowed, one after the other, are never above any limit together.
    #[test]
    fn never_above_any_limit(picture in pictures(), reach in reaches(), order in prop::collection::vec(any::<prop::sample::Index>(), 1..30)) {
        let guardrails = [named(reach.clone())];
        let mut picture = picture;
        for wish in wishes(&picture, &order) {
            let victims = [wish];
            if verdict(&ask_now(&guardrails, &picture, &victims)) == Says::Allow {
                let [wish] = victims;
                picture.in_force.retain(|hit| hit.target.uid != wish.target.uid);
                picture.in_force.push(wish);
                never_above(&reach, &picture, &picture.in_force)?;
            }
        }
    }

    /// The same for several victims at once.
    #[test]
    fn never_above_any_limit_with_many_victims(picture in pictures(), reach in reaches(), order in prop::collection::vec(any::<prop::sample::Index>(), 1..6)) {
        let victims = wishes(&picture, &order);
        if verdict(&ask_now(&[named(reach.clone())], &picture, &victims)) == Says::Allow {
            never_above(&reach, &picture, &victims)?;
        }
    }

    /// With fewer victims nothing gets stricter.
    #[test]
    fn leaving_out_a_victim_never_makes_it_stricter(
        picture in pictures(),
        reach in reaches(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..8),
        left_out in any::<prop::sample::Index>(),
        others in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let guardrails = [named(reach)];
        let mut picture = picture;
        let victims = wishes(&picture, &order);
        picture.in_force = wishes(&picture, &others);
        let all = verdict(&ask_now(&guardrails, &picture, &victims));
        let mut fewer = victims.clone();
        let out = left_out.get(&victims).target.uid.clone();
        fewer.retain(|hit| hit.target.uid != out);
        picture.in_force.retain(|hit| hit.target.uid != out);
        let few = verdict(&ask_now(&guardrails, &picture, &fewer));
        prop_assert!(few <= all, "{few:?} after {all:?}");
    }

    /// What must wait is only waiting: with everybody ready and nothing else in force it may begin. What is
    /// refused is refused then, too.
    #[test]
    fn wait_is_said_of_what_can_pass_and_refuse_of_what_cannot(
        picture in pictures(),
        reach in reaches(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        others in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let guardrails = [named(reach)];
        let mut picture = picture;
        // All replicas are there; some are not ready, and some are hit by others.
        let keys: Vec<WorkloadKey> = picture.workloads.keys().cloned().collect();
        for key in keys {
            let there = picture.pods.iter().filter(|pod| pod.owner.as_ref() == Some(&key)).count();
            picture.workloads.get_mut(&key).unwrap().replicas = there;
            let budget = picture.budgets.iter_mut().find(|budget| budget.name == key.name).unwrap();
            budget.expected = picture.pods.iter().filter(|pod| pod.labels.get("app") == Some(&key.name)).count();
            budget.desired_healthy = budget.expected / 2;
        }
        picture.pods.iter_mut().for_each(|pod| pod.terminating = false);
        let victims = wishes(&picture, &order);
        picture.in_force = wishes(&picture, &others);
        let now = verdict(&ask_now(&guardrails, &picture, &victims));
        picture.in_force.clear();
        picture.pods.iter_mut().for_each(|pod| pod.ready = true);
        picture.nodes.iter_mut().for_each(|node| { node.ready = true; node.schedulable = true; });
        let later = verdict(&ask_now(&guardrails, &picture, &victims));
        match now {
            Says::Allow | Says::Wait => prop_assert_eq!(later, Says::Allow),
            Says::Refuse => prop_assert_eq!(later, Says::Refuse),
        }
    }
}
