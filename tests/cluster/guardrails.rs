//! What the platform team allows, on a real cluster. Each test's namespace has a label of its own, and its guardrails
//! select by it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gameday::api::{
    ExperimentPhase, Fault, FaultKind, GameDay, GameDayRun, GameDayRunSpec, Guardrail, People, RunPhase, Targets, Verdict,
};
use gameday::engine::Permission;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};

use crate::lab::{Lab, PATIENCE, eventually, gameday, kubectl, kubectl_apply, runtime, text};

const HOLD: &str = r#"
apiVersion: gameday.dev/v1alpha1
kind: GameDay
metadata: {name: hold, namespace: NAMESPACE}
spec:
  hypothesis: Checkout answers with one replica less.
  serviceAccountName: breaker
  seed: 7
  suspend: true
  steadyState:
  - name: checkout
    http: {url: "http://ADDRESS/healthz"}
    every: 500ms
    breachAfter: 3
  blastRadius: {targets: 3, percent: 100, hold: 5m}
  baseline: 1s
  recovery: 10s
  experiments:
  - name: one-less
    targets: {workload: {kind: Deployment, name: checkout}}
    fault: {scale: {replicas: REPLICAS}}
    hold: LENGTH
"#;

const TRIES: usize = 50;

/// A namespace that only these guardrails cover.
async fn lab(name: &str, guardrails: &[&str]) -> (Lab, String) {
    let lab = Lab::new(name).await;
    kubectl(&["delete", "guardrails.gameday.dev", "-l", "tests"]);
    kubectl(&["label", "namespace", &lab.namespace, &format!("tests={name}")]);
    for (number, spec) in guardrails.iter().enumerate() {
        kubectl_apply(&format!(
            "{{apiVersion: gameday.dev/v1alpha1, kind: Guardrail, metadata: {{name: {name}-{number}, labels: {{tests: \"\"}}}}, \
             spec: {{namespaceSelector: {{matchLabels: {{tests: {name}}}}}, {spec}}}}}"
        ));
    }
    let address = lab.shop("checkout", 3, &[]).await;
    (lab, address)
}

fn hold(lab: &Lab, address: &str, replicas: i32, length: &str) -> GameDay {
    let yaml = HOLD
        .replace("NAMESPACE", &lab.namespace)
        .replace("ADDRESS", address)
        .replace("REPLICAS", &replicas.to_string())
        .replace("LENGTH", length);
    serde_saphyr::from_str(&yaml).expect("a game day")
}

async fn create(lab: &Lab, name: &str, game_day: &GameDay) {
    let spec = GameDayRunSpec {
        game_day_name: game_day.name_any(),
        scheduled_for: None,
        game_day: game_day.spec.clone(),
        stop: None,
        people: People::default(),
        bound: None,
    };
    lab.runs().create(&PostParams::default(), &GameDayRun::new(name, spec)).await.expect("the run is created");
}

/// The run's `why`, once it says this.
async fn until_says(lab: &Lab, run: &str, words: &str, within: Duration) -> String {
    let runs = lab.runs();
    eventually(&format!("{run} says {words:?}"), within, async || {
        runs.get(run).await.ok()?.status?.why.filter(|why| why.contains(words))
    })
    .await
}

async fn slots(lab: &Lab, name: &str) -> Vec<String> {
    let guardrail = Api::<Guardrail>::all(lab.client.clone()).get(name).await.expect("the guardrail");
    guardrail.status.unwrap_or_default().runs.into_iter().map(|slot| slot.run).collect()
}

#[test]
fn two_operators_and_one_slot_never_let_two_runs_be_under_way() {
    runtime().block_on(async {
        let (mut lab, address) = lab("slots", &["runs: 1"]).await;
        let operators = [lab.operator("one"), lab.operator("two")];
        let mut game_day = hold(&lab, &address, 2, "1s");
        game_day.spec.baseline = gameday::api::Duration::ZERO;
        for number in 0..TRIES {
            create(&lab, &format!("try-{number}"), &game_day).await;
        }
        let runs = lab.runs();
        let start = Instant::now();
        let mut killed = false;
        loop {
            let found = runs.list(&ListParams::default()).await.expect("runs").items;
            let of = |phase| found.iter().filter(|run| run.status.as_ref().is_some_and(|status| status.phase == phase)).count();
            assert!(of(RunPhase::Running) <= 1, "{} at once", of(RunPhase::Running));
            if of(RunPhase::Finished) >= 3 && !killed {
                // Everything of ours dies with a slot taken.
                operators.into_iter().for_each(|operator| lab.kill(operator));
                killed = true;
                lab.operator("three");
                lab.operator("four");
            }
            if of(RunPhase::Finished) == TRIES {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(400), "only {} are finished", of(RunPhase::Finished));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{TRIES} runs, one after the other, in {:?}", start.elapsed());
        eventually("the slot is free", Duration::from_secs(20), async || slots(&lab, "slots-0").await.is_empty().then_some(()))
            .await;
        assert_eq!(lab.replicas("checkout").await, 3);
    });
}

#[test]
fn who_waits_says_for_whom_and_first_come_is_first_served() {
    runtime().block_on(async {
        let (mut lab, address) = lab("queue", &["runs: 1"]).await;
        lab.operator("one");
        create(&lab, "first", &hold(&lab, &address, 2, "6s")).await;
        lab.until_phase("first", ExperimentPhase::Holding).await;
        create(&lab, "second", &hold(&lab, &address, 2, "1s")).await;
        let why = until_says(&lab, "second", "it allows 1 run at once", PATIENCE).await;
        println!("{why}");
        assert!(why.contains("guardrail queue-0, runs:") && why.contains(&format!("{}/first", lab.namespace)), "{why}");
        println!("{}", kubectl(&["get", "guardrails"]));
        let second = lab.until_finished("second").await.status.unwrap();
        let first = lab.run("first").await.status.unwrap();
        assert!(second.started.unwrap() >= first.finished.unwrap());
        assert_eq!((first.verdict, second.verdict), (Some(Verdict::Passed), Some(Verdict::Passed)), "{second:#?}");
    });
}

#[test]
fn what_is_held_is_reverted_when_a_guardrail_no_longer_allows_it() {
    runtime().block_on(async {
        let (mut lab, address) = lab("closing", &["runs: 9"]).await;
        lab.operator("one");
        let closed = "apiVersion: gameday.dev/v1alpha1\nkind: Guardrail\nmetadata: {name: closing-0, labels: {tests: \"\"}}\nspec:\n  \
                      namespaceSelector: {matchLabels: {tests: closing}}\n  runs: 9\n  moment:\n    freezes:\n    - reason: the sale begins\n      \
                      when: {firstDate: \"2020-01-01\", lastDate: \"2099-01-01\"}\n";
        create(&lab, "closes", &hold(&lab, &address, 2, "2m")).await;
        lab.until_phase("closes", ExperimentPhase::Holding).await;
        kubectl_apply(closed);
        let took = until_back(&lab, "closes", Duration::from_secs(2)).await;
        println!("a freeze: replicas back after {took:?}");
        let status = lab.until_finished("closes").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("guardrail closing-0, moment.freezes: frozen"), "{:?}", status.why);

        create(&lab, "waits", &hold(&lab, &address, 2, "2m")).await;
        let why = until_says(&lab, "waits", "the sale begins", PATIENCE).await;
        assert!(why.starts_with("waiting: guardrail closing-0, moment.freezes"), "{why}");
        lab.runs().delete("waits", &Default::default()).await.unwrap();
    });
}

#[test]
fn a_rollout_that_starts_ends_what_is_held() {
    runtime().block_on(async {
        let (mut lab, address) = lab("rollout", &["runs: 9, moment: {rollout: Targets}"]).await;
        lab.operator("one");
        create(&lab, "rolls", &hold(&lab, &address, 2, "2m")).await;
        lab.until_phase("rolls", ExperimentPhase::Holding).await;
        // Long enough that it is seen to be only a number of replicas.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(lab.run("rolls").await.status.unwrap().experiments[0].phase, ExperimentPhase::Holding);
        kubectl(&["-n", &lab.namespace, "rollout", "restart", "deployment/checkout"]);
        let took = until_back(&lab, "rolls", Duration::from_secs(2)).await;
        println!("a rollout: replicas back after {took:?}");
        let status = lab.until_finished("rolls").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(
            status.why.as_deref().unwrap().contains("moment.rollout: Deployment t-rollout/checkout rolls out"),
            "{:?}",
            status.why
        );
    });
}

#[test]
fn a_right_that_is_withdrawn_ends_what_is_held() {
    runtime().block_on(async {
        let (mut lab, address) = lab("withdrawn", &["runs: 9"]).await;
        lab.operator("one");
        create(&lab, "loses-it", &hold(&lab, &address, 2, "2m")).await;
        lab.until_phase("loses-it", ExperimentPhase::Holding).await;
        kubectl(&["-n", &lab.namespace, "delete", "rolebinding", "breaker"]);
        let took = until_back(&lab, "loses-it", Duration::from_secs(2)).await;
        println!("a right withdrawn: replicas back after {took:?}");
        let status = lab.until_finished("loses-it").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("the service account breaker may not"), "{:?}", status.why);
    });
}

#[test]
fn a_budget_that_loses_its_headroom_ends_what_is_held() {
    runtime().block_on(async {
        let (mut lab, address) = lab("headroom", &["runs: 9"]).await;
        lab.operator("one");
        create(&lab, "no-room", &hold(&lab, &address, 2, "2m")).await;
        lab.until_phase("no-room", ExperimentPhase::Holding).await;
        kubectl_apply(&format!(
            "{{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {{name: checkout, namespace: {}}}, \
             spec: {{minAvailable: 3, selector: {{matchLabels: {{app: checkout}}}}}}}}",
            lab.namespace
        ));
        let took = until_back(&lab, "no-room", Duration::from_secs(2)).await;
        println!("a budget without headroom: replicas back after {took:?}");
        let status = lab.until_finished("no-room").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("budgets, PodDisruptionBudget t-headroom/checkout"), "{:?}", status.why);
    });
}

/// How long it takes until the replicas are set back.
async fn until_back(lab: &Lab, run: &str, within: Duration) -> Duration {
    let start = Instant::now();
    let deployments = lab.deployments();
    eventually(&format!("{run} has set the replicas back"), within, async || {
        (deployments.get("checkout").await.ok()?.spec?.replicas == Some(3)).then_some(())
    })
    .await;
    start.elapsed()
}

#[test]
fn two_caps_that_disagree_and_the_smaller_wins() {
    runtime().block_on(async {
        let reach = ["runs: 9, reach: {zone: {targets: 2}}", "runs: 9, reach: {workload: {targets: 1}}"];
        let (mut lab, address) = lab("caps", &reach).await;
        lab.operator("one");
        let mut two = hold(&lab, &address, 1, "5s");
        two.spec.experiments[0].fault = serde_json::from_value(serde_json::json!({"podKill": {"gracePeriod": "0s"}})).unwrap();
        two.spec.experiments[0].targets =
            serde_json::from_value(serde_json::json!({"pods": {"matchLabels": {"app": "checkout"}}, "choose": {"count": 2}}))
                .unwrap();
        let before = lab.uids("checkout").await;
        create(&lab, "two-less", &two).await;
        let status = lab.until_finished("two-less").await.status.unwrap();
        println!("{:?}", status.why);
        let why = status.why.unwrap();
        let smaller = "guardrail caps-1, reach.workload, Deployment t-caps/checkout: 2 of 3 pods at once; the guardrail allows 1";
        assert!(why.contains(smaller) && why.contains("guardrail caps-0, reach.zone, zone zone-"), "both sums: {why}");
        assert!(why.contains("Way out:"), "{why}");
        assert_eq!(lab.uids("checkout").await, before, "nothing was touched");
        create(&lab, "one-less", &hold(&lab, &address, 2, "1s")).await;
        let status = lab.until_finished("one-less").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
    });
}

#[test]
fn a_run_waits_for_somebodys_approval_and_its_record_says_whose() {
    runtime().block_on(async {
        let (mut lab, address) = lab("approval", &["runs: 9, approval: {people: 1}"]).await;
        lab.operator("one");
        let mut game_day = hold(&lab, &address, 2, "1s");
        game_day.spec.experiments[0].gate =
            serde_json::from_value(serde_json::json!({"ask": "Is on-call looking?", "within": "1m"})).unwrap();
        create(&lab, "approved", &game_day).await;
        let why = until_says(&lab, "approved", "approved by 0 of 1 people", PATIENCE).await;
        assert!(why.contains("gameday approve approved"), "{why}");

        // Somebody without the right, and somebody in another's name.
        let patch = |by: &str, who: &[&str]| {
            let said = format!(
                "{{\"spec\": {{\"people\": {{\"approvals\": [{{\"by\": \"{by}\", \"at\": \"{0}\", \"until\": \"2099-01-01T00:00:00Z\"}}]}}}}}}",
                jiff::Timestamp::now()
            );
            let arguments = ["-n", &lab.namespace, "patch", "gdr", "approved", "--type=merge", "-p", &said];
            Command::new("kubectl").args(arguments).args(who).output().unwrap()
        };
        let other = patch("somebody-else", &[]);
        assert!(text(&other).contains("everybody speaks for themselves"), "{}", text(&other));
        kubectl(&["-n", &lab.namespace, "create", "role", "patcher", "--verb=get,list,patch", "--resource=gamedayruns.gameday.dev"]);
        kubectl(&["-n", &lab.namespace, "create", "rolebinding", "patcher", "--role=patcher", "--user=stranger"]);
        let stranger = patch("stranger", &["--as=stranger"]);
        assert!(text(&stranger).contains("an approval needs the right that it names"), "{}", text(&stranger));

        let approved = gameday(&["-n", &lab.namespace, "approve", "approved", "--for", "1h"]);
        assert_eq!(approved.status.code(), Some(0), "{}", text(&approved));
        let runs = lab.runs();
        eventually("the gate asks", PATIENCE, async || runs.get("approved").await.ok()?.status?.experiments.first()?.asked).await;
        let noted = gameday(&["-n", &lab.namespace, "note", "approved", "pager is quiet"]);
        assert_eq!(noted.status.code(), Some(0), "{}", text(&noted));
        let answered = gameday(&["-n", &lab.namespace, "answer", "approved", "yes", "--note", "looking"]);
        assert_eq!(answered.status.code(), Some(0), "{}", text(&answered));
        let status = lab.until_finished("approved").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        let said: Vec<&str> = status.record.iter().map(|entry| entry.text.as_str()).collect();
        assert!(said.iter().any(|text| text.contains("pager is quiet")), "{said:#?}");
        assert!(said.iter().any(|text| text.contains("said yes: looking")), "{said:#?}");
        assert!(said.iter().any(|text| text.starts_with("approved by ")), "{said:#?}");
        let people = lab.run("approved").await.spec.people;
        assert_eq!((people.approvals.len(), people.answers.len(), people.notes.len()), (1, 1, 1));
    });
}

#[test]
fn silence_is_no() {
    runtime().block_on(async {
        let (mut lab, address) = lab("silence", &["runs: 9"]).await;
        lab.operator("one");
        let mut game_day = hold(&lab, &address, 2, "1s");
        game_day.spec.experiments[0].gate =
            serde_json::from_value(serde_json::json!({"ask": "Is on-call looking?", "within": "2s"})).unwrap();
        create(&lab, "asks", &game_day).await;
        let status = lab.until_finished("asks").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("nobody answered \"Is on-call looking?\" within 2s"), "{:?}", status.why);
        assert_eq!(lab.replicas("checkout").await, 3);
    });
}

#[test]
fn what_the_policies_forbid_is_refused_while_no_operator_runs() {
    runtime().block_on(async {
        let (lab, address) = lab("policies", &["runs: 9, faults: {allow: [podKill], hold: 30s}"]).await;
        let apply = |game_day: &GameDay| {
            let mut child = Command::new("kubectl")
                .args(["apply", "-f", "-"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let manifest = serde_json::to_vec(game_day).unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), &manifest).unwrap();
            child.wait_with_output().unwrap()
        };
        let mut said = String::new();
        // A policy is obeyed some moments after its guardrail was written.
        eventually("the policy refuses", Duration::from_secs(20), async || {
            let output = apply(&hold(&lab, &address, 2, "1m"));
            let refused = !output.status.success();
            if !refused {
                kubectl(&["-n", &lab.namespace, "delete", "gameday", "hold"]);
            }
            refused.then_some(text(&output))
        })
        .await
        .clone_into(&mut said);
        println!("{said}");
        assert!(said.contains("guardrail policies-0, faults.allow"), "{said}");
        assert!(said.contains("use podKill"), "{said}");
        let mut kill = hold(&lab, &address, 2, "1m");
        kill.spec.experiments[0].fault = serde_json::from_value(serde_json::json!({"podKill": {}})).unwrap();
        kill.spec.experiments[0].targets =
            serde_json::from_value(serde_json::json!({"pods": {"matchLabels": {"app": "checkout"}}})).unwrap();
        let output = text(&apply(&kill));
        assert!(output.contains("guardrail policies-0, faults.hold") && output.contains("at most 30s"), "{output}");
        kill.spec.experiments[0].hold = gameday::api::Duration::from_secs(20);
        let output = apply(&kill);
        assert!(output.status.success(), "{}", text(&output));
        kill.metadata.namespace = Some("kube-system".to_owned());
        let output = text(&apply(&kill));
        assert!(output.contains("no game days in its namespaces"), "{output}");
    });
}

#[test]
fn the_plan_shows_what_each_guardrail_says() {
    runtime().block_on(async {
        let (lab, address) = lab("plan", &["runs: 1, reach: {workload: {percent: 34}, readyLeft: {count: 3}}"]).await;
        let path = std::env::temp_dir().join("gameday-plan-guardrails.yaml");
        std::fs::write(&path, serde_json::to_string(&hold(&lab, &address, 2, "5s")).unwrap()).unwrap();
        let output = gameday(&["plan", path.to_str().unwrap()]);
        println!("{}", text(&output));
        assert_eq!(output.status.code(), Some(4), "{}", text(&output));
        for words in [
            "allowed: guardrail plan-0, reach.workload, Deployment t-plan/checkout: 1 of 3",
            "REFUSED: guardrail plan-0, reach.readyLeft, Deployment t-plan/checkout: 2 of 3 ready replicas would remain; the guardrail asks for 3",
            "guardrail     plan-0: 0 of 1 runs under way: there is a slot",
        ] {
            assert!(text(&output).contains(words), "{words}");
        }
    });
}

/// A Prometheus whose one alert fires as it is told.
fn prometheus(fires: &Arc<AtomicBool>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fires = Arc::clone(fires);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let length = std::io::Read::read(&mut stream, &mut request).unwrap_or(0);
            let asked = String::from_utf8_lossy(&request[..length]).into_owned();
            let series = r#"{"metric": {"alertname": "Burning"}, "value": [1, "1"]}"#;
            let result = if fires.load(Ordering::Relaxed) { series } else { "" };
            let body = if asked.starts_with("GET /api/v1/query?query=ALERTS%7Balertstate%3D%22firing%22%7D ") {
                format!(r#"{{"status": "success", "data": {{"resultType": "vector", "result": [{result}]}}}}"#)
            } else {
                r#"{"status": "error", "error": "parse error"}"#.to_owned()
            };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            // Who hangs up does not want it.
            let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn an_alert_that_fires_ends_what_is_held_and_nothing_starts_until_it_is_over() {
    runtime().block_on(async {
        let fires = Arc::new(AtomicBool::new(false));
        let rule = format!(
            "runs: 9, moment: {{alerts: {{prometheus: \"{}\", queries: [{{name: burning, query: \"ALERTS{{alertstate=\\\"firing\\\"}}\"}}]}}}}",
            prometheus(&fires)
        );
        let (mut lab, address) = lab("alerts", &[&rule]).await;
        lab.operator("one");
        create(&lab, "burns", &hold(&lab, &address, 2, "2m")).await;
        lab.until_phase("burns", ExperimentPhase::Holding).await;
        fires.store(true, Ordering::Relaxed);
        let took = until_back(&lab, "burns", Duration::from_secs(3)).await;
        println!("an alert fires: replicas back after {took:?}");
        let status = lab.until_finished("burns").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("moment.alerts"), "{:?}", status.why);
        assert!(status.why.as_deref().unwrap().contains("Burning"), "{:?}", status.why);
        create(&lab, "after", &hold(&lab, &address, 2, "1s")).await;
        until_says(&lab, "after", "moment.alerts", PATIENCE).await;
        fires.store(false, Ordering::Relaxed);
        let status = lab.until_finished("after").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
    });
}

/// Every account, every fault, every namespace: 117 cells, asked as the operator asks.
#[test]
fn the_matrix_of_accounts_faults_and_namespaces() {
    runtime().block_on(async {
        let (lab, _) = lab("matrix", &["runs: 9"]).await;
        let namespaces = [lab.namespace.clone(), "t-matrix-two".to_owned(), "t-matrix-three".to_owned()];
        for namespace in &namespaces[1..] {
            kubectl(&["delete", "namespace", namespace, "--ignore-not-found"]);
            kubectl(&["create", "namespace", namespace]);
        }
        // Which account of which namespace is allowed what.
        let all: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
        let grants: [(usize, &str, Vec<&str>); 4] = [
            (0, "bold", all),
            (0, "careful", vec!["podKill", "network"]),
            (1, "bold", vec!["podEvict", "cpu", "cordon"]),
            (2, "careful", vec!["scale"]),
        ];
        for (namespace, account, faults) in &grants {
            let manifests =
                gameday(&["allow", &namespaces[*namespace], "--faults", &faults.join(","), "--service-account", account]);
            assert!(manifests.status.success(), "{}", text(&manifests));
            kubectl_apply(&String::from_utf8_lossy(&manifests.stdout));
        }
        let reviews: Api<SubjectAccessReview> = Api::all(lab.client.clone());
        let mut cells = 0;
        for (number, namespace) in namespaces.iter().enumerate() {
            for account in ["bold", "careful", "nobody"] {
                for kind in FaultKind::ALL {
                    let granted =
                        grants.iter().any(|(at, who, faults)| (*at, *who) == (number, account) && faults.contains(&kind.name()));
                    let fault: Fault = serde_json::from_value(example(kind)).unwrap();
                    let mut may = true;
                    for permission in Permission::of(&fault, &targets(kind)) {
                        let review = gameday::cluster::permission::review(&permission, namespace, account);
                        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
                        may &= answer.status.unwrap().allowed;
                    }
                    assert_eq!(may, granted, "{account} of {namespace}: {kind}");
                    cells += 1;
                }
            }
        }
        println!("{cells} cells");
        assert_eq!(cells, 117);
        for namespace in &namespaces[1..] {
            kubectl(&["delete", "namespace", namespace, "--wait=false"]);
        }
        kubectl(&[
            "delete",
            "clusterrole,clusterrolebinding",
            "gameday-faults:t-matrix:bold",
            "gameday-faults:t-matrix-two:bold",
        ]);
    });
}

fn targets(kind: FaultKind) -> Targets {
    serde_json::from_value(match kind {
        FaultKind::Cordon => serde_json::json!({"nodes": {"matchLabels": {"a": "b"}}}),
        FaultKind::Scale => serde_json::json!({"workload": {"kind": "Deployment", "name": "checkout"}}),
        _ => serde_json::json!({"pods": {"matchLabels": {"app": "checkout"}}}),
    })
    .unwrap()
}

fn example(kind: FaultKind) -> serde_json::Value {
    let value = match kind {
        FaultKind::PodKill | FaultKind::PodEvict | FaultKind::Cordon | FaultKind::Pause | FaultKind::ContainerKill => {
            serde_json::json!({})
        }
        FaultKind::Scale => serde_json::json!({"replicas": 1}),
        FaultKind::Network => serde_json::json!({"delay": "10ms"}),
        FaultKind::Cpu => serde_json::json!({"cores": 0.1}),
        FaultKind::Memory => serde_json::json!({"percent": 50}),
        FaultKind::DiskFill => serde_json::json!({"path": "/tmp", "percent": 50}),
        FaultKind::DiskIo => serde_json::json!({"path": "/tmp"}),
        FaultKind::Files => serde_json::json!({"path": "/tmp", "delay": "10ms"}),
        FaultKind::Processes => serde_json::json!({"percent": 50}),
    };
    serde_json::json!({kind.name(): value})
}

#[test]
fn a_saved_plan_binds_its_run() {
    runtime().block_on(async {
        let (mut lab, address) = lab("bound", &["runs: 9"]).await;
        lab.operator("one");
        let folder = std::env::temp_dir();
        let (file, plan) = (folder.join("gameday-bound.yaml"), folder.join("gameday-bound-plan.json"));
        let (file, plan) = (file.to_str().unwrap(), plan.to_str().unwrap());
        std::fs::write(file, serde_json::to_string(&hold(&lab, &address, 2, "1s")).unwrap()).unwrap();
        let saved = gameday(&["plan", file, "--save", plan]);
        assert_eq!(saved.status.code(), Some(0), "{}", text(&saved));
        let run = gameday(&["run", file, "--plan", plan]);
        assert_eq!(run.status.code(), Some(0), "nothing has changed: {}", text(&run));

        kubectl(&["patch", "guardrail", "bound-0", "--type=merge", "-p", "{\"spec\": {\"runs\": 8}}"]);
        let run = gameday(&["run", file, "--plan", plan]);
        println!("{}", text(&run));
        assert_eq!(run.status.code(), Some(4), "{}", text(&run));
        assert!(text(&run).contains("not as planned: guardrail bound-0 has changed: runs was 9, is 8"), "{}", text(&run));

        // Another object of the same name is another victim.
        let saved = gameday(&["plan", file, "--save", plan]);
        assert_eq!(saved.status.code(), Some(0), "{}", text(&saved));
        kubectl(&["-n", &lab.namespace, "delete", "deployment", "checkout"]);
        lab.shop("checkout", 3, &[]).await;
        let run = gameday(&["run", file, "--plan", plan]);
        assert_eq!(run.status.code(), Some(4), "{}", text(&run));
        assert!(text(&run).contains("not as planned: it would hit Deployment/checkout"), "{}", text(&run));
        assert_eq!(lab.replicas("checkout").await, 3);
    });
}

#[test]
fn wider_only_after_it_passed_narrower() {
    runtime().block_on(async {
        let rule = "runs: 9, reach: {readyLeft: {count: 1}}, promotion: {stages: [{targets: 1}, {targets: 2}], days: 30}";
        let (mut lab, address) = lab("promotion", &[rule]).await;
        lab.operator("one");
        let kill = |count: i32| {
            let mut game_day = hold(&lab, &address, 2, "1s");
            let experiment = &mut game_day.spec.experiments[0];
            experiment.fault = serde_json::from_value(serde_json::json!({"podKill": {"gracePeriod": "0s"}})).unwrap();
            let targets = serde_json::json!({"pods": {"matchLabels": {"app": "checkout"}}, "choose": {"count": count}});
            experiment.targets = serde_json::from_value(targets).unwrap();
            game_day
        };
        let (narrow, wide) = (kill(1), kill(2));
        create(&lab, "too-early", &wide).await;
        let why = lab.until_finished("too-early").await.status.unwrap().why.unwrap();
        assert!(why.contains("promotion, one-less: 2 of 3 is wider than 1 target"), "{why}");
        assert!(why.contains("let it pass at 1 target first"), "{why}");
        create(&lab, "narrow", &narrow).await;
        let status = lab.until_finished("narrow").await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        eventually("the killed pod is replaced", PATIENCE, async || {
            (lab.deployments().get("checkout").await.ok()?.status?.ready_replicas == Some(3)).then_some(())
        })
        .await;
        create(&lab, "wide", &wide).await;
        let status = lab.until_finished("wide").await.status.unwrap();
        assert_eq!(status.experiments[0].targets.len(), 2, "{status:#?}");
        assert!(!status.why.as_deref().unwrap_or_default().contains("promotion"), "{:?}", status.why);
    });
}
