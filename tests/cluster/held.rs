//! Faults that nodes hold, measured from outside the target.

use std::process::Command;
use std::time::{Duration, Instant};

use gameday::api::{ExperimentPhase, GameDayRunStatus, Injection, InjectionPhase, Verdict};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kinds::process_of;
use crate::lab::{
    ApiServer, Lab, PATIENCE, eventually, gameday, kubectl, kubectl_apply, runtime, signal, text, token_client, try_create,
};

const HELD: &str = r#"
apiVersion: gameday.dev/v1alpha1
kind: GameDay
metadata: {name: held, namespace: NAMESPACE}
spec:
  hypothesis: Checkout answers while one of its pods is disturbed.
  serviceAccountName: breaker
  seed: 7
  steadyState:
  - name: checkout
    http: {url: "http://ADDRESS/healthz"}
    every: 500ms
    timeout: 2s
    expect: {status: [200], latency: 1s}
    breachAfter: 3
  blastRadius: {targets: 1, percent: 50, hold: 5m}
  baseline: 2s
  recovery: 10s
  experiments:
  - name: one-pod
    targets: {pods: {matchLabels: {app: checkout}}}
    fault: FAULT
    hold: HOLD
"#;

const DELAY: &str = "{network: {delay: 100ms}}";

pub fn injections(client: &Client) -> Api<Injection> {
    Api::namespaced(client.clone(), "gameday-agents")
}

/// The median time of five answers of a pod, over connections of their own.
pub async fn answer_ms(ip: &str) -> f64 {
    let mut took = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        // A pod that does not answer takes very long.
        let _ = tokio::time::timeout(Duration::from_secs(2), answer(ip)).await;
        took.push(start.elapsed().as_secs_f64() * 1_000.0);
    }
    took.sort_by(f64::total_cmp);
    took[2]
}

/// Asks a pod once, over a connection of its own.
pub async fn answer(ip: &str) -> Option<()> {
    let mut stream = tokio::net::TcpStream::connect((ip, 8080)).await.ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok().filter(|length| *length > 0).map(drop)
}

pub struct Target {
    pub lab: Lab,
    pub operator: usize,
    pub run: String,
    pub ip: String,
    pub node: String,
    pub pid: i32,
}

/// A game day of one experiment with this fault.
pub fn game_day(address: &str, fault: &str, hold: &str) -> String {
    HELD.replace("ADDRESS", address).replace("FAULT", fault).replace("HOLD", hold)
}

/// A run that holds this fault, bitten, on one of two pods.
pub async fn holding(name: &str, fault: &str, hold: &str) -> Target {
    holding_with(name, fault, hold, async |_, _| {}).await
}

/// The same. `around` is called before the run is begun, and then again and again with the target's process, until the
/// fault has bitten: one that meets no packet does not.
pub async fn holding_with(name: &str, fault: &str, hold: &str, around: impl AsyncFn(&Lab, Option<i32>)) -> Target {
    let mut lab = Lab::new(name).await;
    let address = lab.shop("checkout", 2, &[]).await;
    around(&lab, None).await;
    let operator = lab.operator("one");
    lab.apply(&game_day(&address, fault, hold)).await;
    holding_on(lab, operator, around).await
}

/// Waits until the run of the game day has bitten.
pub async fn holding_on(lab: Lab, operator: usize, around: impl AsyncFn(&Lab, Option<i32>)) -> Target {
    let run = lab.run_of("held").await;
    let status = lab.until_phase(&run, ExperimentPhase::Injecting).await.status.unwrap();
    let pod = lab.pods().get(&status.experiments[0].targets[0].name).await.unwrap();
    let pid = process_of(&pod);
    let ip = pod.status.unwrap().pod_ip.unwrap();
    let node = pod.spec.unwrap().node_name.unwrap();
    let runs = lab.runs();
    // The probe may keep a connection to the other pod.
    eventually("the fault has bitten", PATIENCE, async || {
        let _ = tokio::time::timeout(Duration::from_secs(1), answer(&ip)).await;
        around(&lab, Some(pid)).await;
        let status = runs.get(&run).await.ok()?.status?;
        assert!(status.verdict.is_none(), "{status:#?}");
        (status.experiments[0].phase == ExperimentPhase::Holding).then_some(())
    })
    .await;
    Target { lab, operator, run, ip, node, pid }
}

/// Processes that hold a fault, on this machine: its nodes share it.
pub fn holders() -> Vec<i32> {
    let output = Command::new("pgrep").args(["-f", "^/proc/self/exe hold$"]).output().expect("pgrep runs");
    String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// How long it takes until the pod answers as without a fault.
pub async fn until_unharmed(ip: &str, within: Duration) -> Duration {
    let start = Instant::now();
    // A packet that waited when its holder was killed may be lost: each try has a connection of its own.
    eventually("the pod answers unharmed", within, async || {
        let asked = Instant::now();
        let answered = tokio::time::timeout(Duration::from_millis(250), answer(ip)).await;
        (matches!(answered, Ok(Some(()))) && asked.elapsed() < Duration::from_millis(50)).then_some(())
    })
    .await;
    start.elapsed()
}

pub async fn nothing_is_left(target: &Target) {
    let injections = injections(&target.lab.client);
    let namespace = &target.lab.namespace;
    eventually("every order has ended", PATIENCE, async || {
        let found = injections.list(&ListParams::default()).await.ok()?;
        let of = found.into_iter().filter(|injection| injection.spec.run.namespace == *namespace);
        of.into_iter().all(|injection| injection.status.is_some_and(|status| status.phase.is_over())).then_some(())
    })
    .await;
    eventually("no holder is left", Duration::from_secs(2), async || holders().is_empty().then_some(())).await;
}

pub fn show(what: &str, status: &GameDayRunStatus) {
    let target = &status.experiments[0].targets[0];
    println!(
        "{what}: {:?}: {:?}\n  bite {:?}\n  clean {:?}",
        status.verdict,
        status.why,
        target.bite.as_ref().map(|proof| &proof.what),
        target.clean.as_ref().map(|proof| &proof.what)
    );
}

async fn passes(name: &str, fault: &str, during: impl AsyncFnOnce(&Target)) {
    let target = holding(name, fault, "8s").await;
    during(&target).await;
    let status = target.lab.until_finished(&target.run).await.status.unwrap();
    show(name, &status);
    assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
    nothing_is_left(&target).await;
    assert!(answer_ms(&target.ip).await < 50.0);
}

#[test]
fn a_network_delay_is_seen_from_outside_and_gone_after() {
    runtime().block_on(passes("held-delay", DELAY, async |target| {
        let took = answer_ms(&target.ip).await;
        println!("an answer of the target takes {took:.1} ms");
        // One round trip to connect, one to ask: what comes in is delayed each time.
        assert!((190.0..400.0).contains(&took), "{took} ms");
    }));
}

#[test]
fn what_a_target_sends_is_delayed_too() {
    runtime().block_on(passes("held-egress", "{network: {delay: 100ms, direction: Out}}", async |target| {
        let took = answer_ms(&target.ip).await;
        println!("an answer of the target takes {took:.1} ms");
        assert!((190.0..400.0).contains(&took), "{took} ms");
    }));
}

/// How a run ends that cuts off a pod, which its liveness probe kills within three seconds unless it is spared.
async fn end_of_one_cut_off(name: &str, fault: &str, killed: bool) -> GameDayRunStatus {
    let mut lab = Lab::new(name).await;
    let address = lab.shop("checkout", 2, &[]).await;
    let liveness = r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"shop","livenessProbe":{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":1,"timeoutSeconds":1,"failureThreshold":2}}]}}}}"#;
    kubectl(&["-n", &lab.namespace, "patch", "deployment", "checkout", "-p", liveness]);
    kubectl(&["-n", &lab.namespace, "rollout", "status", "deployment/checkout", "--timeout=60s"]);
    lab.operator("one");
    // The probes of the kubelet are what is looked at: requests would fail while the pod is cut off.
    let by_request = format!(r#"http: {{url: "http://{address}/healthz"}}"#);
    let by_readiness = game_day(&address, fault, "12s")
        .replace(&by_request, "workload: {kind: Deployment, name: checkout}")
        .replace("expect: {status: [200], latency: 1s}", "expect: {ready: {count: 1}}");
    lab.apply(&by_readiness).await;
    let run = lab.run_of("held").await;
    let status = lab.until_phase(&run, ExperimentPhase::Injecting).await.status.unwrap();
    let pod = status.experiments[0].targets[0].name.clone();
    let ip = lab.pods().get(&pod).await.unwrap().status.unwrap().pod_ip.unwrap();
    let runs = lab.runs();
    // One that nobody speaks to is not seen to be cut off.
    let status = eventually("the run ends", PATIENCE, async || {
        let _ = tokio::time::timeout(Duration::from_millis(200), answer(&ip)).await;
        runs.get(&run).await.ok()?.status.filter(|status| status.verdict.is_some())
    })
    .await;
    show(name, &status);
    eventually("as often as it should be", PATIENCE, async || {
        let restarts = lab.pods().get(&pod).await.ok()?.status?.container_statuses?.first()?.restart_count;
        ((restarts > 0) == killed).then_some(())
    })
    .await;
    status
}

#[test]
fn the_kubelets_probes_of_a_pod_that_is_cut_off_are_spared_unless_asked() {
    runtime().block_on(async {
        let status = end_of_one_cut_off("held-spared", "{network: {partition: true}}", false).await;
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        let status = end_of_one_cut_off("held-asked", "{network: {partition: true, kubelet: true}}", true).await;
        assert_eq!(status.verdict, Some(Verdict::Inconclusive), "{status:#?}");
        assert!(status.why.as_deref().is_some_and(|why| why.contains("the target is gone")), "{status:#?}");
    });
}

#[test]
fn processor_pressure_passes() {
    runtime().block_on(passes("held-cpu", "{cpu: {cores: 0.2}}", async |_| {}));
}

#[test]
fn memory_pressure_passes() {
    runtime().block_on(passes("held-memory", "{memory: {bytes: 67108864}}", async |_| {}));
}

#[test]
fn a_killed_holder_takes_its_fault_along() {
    runtime().block_on(async {
        let target = holding("held-kill", DELAY, "60s").await;
        assert!(answer_ms(&target.ip).await > 150.0);
        for pid in holders() {
            signal(pid, "-9");
        }
        let took = until_unharmed(&target.ip, Duration::from_secs(1)).await;
        println!("holder killed: unharmed after {took:?}");
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        show("holder killed", &status);
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("killed"), "{status:#?}");
        nothing_is_left(&target).await;
    });
}

#[test]
fn a_holder_that_hangs_is_killed_when_it_is_to_end() {
    runtime().block_on(async {
        let target = holding("held-hang", DELAY, "5m").await;
        for pid in holders() {
            signal(pid, "-STOP");
        }
        let stop = Patch::Merge(serde_json::json!({"spec": {"stop": {"reason": "tried"}}}));
        target.lab.runs().patch(&target.run, &PatchParams::default(), &stop).await.unwrap();
        let took = until_unharmed(&target.ip, Duration::from_secs(8)).await;
        println!("a holder that hangs: unharmed {took:?} after the stop");
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        show("a holder that hangs", &status);
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        nothing_is_left(&target).await;
    });
}

#[test]
fn a_killed_agent_takes_its_holders_along() {
    runtime().block_on(async {
        let target = holding("held-agent", DELAY, "60s").await;
        let output = Command::new("pgrep").args(["-f", &format!("^/gameday agent --node {} ", target.node)]).output().unwrap();
        let pid = String::from_utf8_lossy(&output.stdout).trim().parse().expect("one agent");
        signal(pid, "-9");
        let took = until_unharmed(&target.ip, Duration::from_secs(1)).await;
        println!("agent killed: unharmed after {took:?}");
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        show("agent killed", &status);
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        nothing_is_left(&target).await;
    });
}

#[test]
fn an_agents_pod_deleted_takes_its_holders_along() {
    runtime().block_on(async {
        let target = holding("held-pod", DELAY, "60s").await;
        kubectl(&["-n", "gameday-agents", "delete", "pod", &format!("agent-{}", target.node), "--wait=false"]);
        let took = until_unharmed(&target.ip, Duration::from_secs(2)).await;
        println!("agent's pod deleted: unharmed after {took:?}");
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        show("agent's pod deleted", &status);
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        nothing_is_left(&target).await;
    });
}

#[test]
fn without_an_operator_agents_revert_within_half_a_minute() {
    runtime().block_on(async {
        let mut target = holding("held-deadman", DELAY, "2m").await;
        target.lab.kill(target.operator);
        let took = until_unharmed(&target.ip, Duration::from_secs(30)).await;
        println!("operator killed: unharmed after {took:?}");
        nothing_is_left(&target).await;
        target.lab.operator("two");
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        show("operator killed", &status);
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
    });
}

#[test]
fn without_an_api_server_agents_revert_within_half_a_minute() {
    runtime().block_on(async {
        let mut target = holding("held-no-api", DELAY, "2m").await;
        let stopped = ApiServer::stopped();
        let took = until_unharmed(&target.ip, Duration::from_secs(30)).await;
        println!("API server stopped: unharmed after {took:?}");
        eventually("no holder is left", Duration::from_secs(2), async || holders().is_empty().then_some(())).await;
        drop(stopped);
        // An operator that cannot keep its lease ends; as a pod it would be started anew.
        target.lab.operator("two");
        let name = target.run.clone();
        let runs = target.lab.runs();
        let status = eventually("the run says what happened", PATIENCE, async || {
            runs.get(&name).await.ok()?.status.filter(|status| status.experiments[0].reverted.is_some())
        })
        .await;
        assert_ne!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        nothing_is_left(&target).await;
    });
}

#[test]
fn a_cord_ends_what_nodes_hold_within_a_second() {
    runtime().block_on(async {
        let target = holding("held-cord", DELAY, "60s").await;
        kubectl_apply(
            "{apiVersion: gameday.dev/v1alpha1, kind: Cord, metadata: {name: pager}, spec: {reason: the pager went off}}",
        );
        let took = until_unharmed(&target.ip, Duration::from_secs(2)).await;
        println!("cord: unharmed after {took:?}");
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        show("cord", &status);
        kubectl(&["delete", "cords.gameday.dev", "--all"]);
        nothing_is_left(&target).await;
    });
}

#[test]
fn agents_obey_a_cord_without_an_operator() {
    runtime().block_on(async {
        let mut target = holding("held-alone", DELAY, "60s").await;
        target.lab.kill(target.operator);
        kubectl_apply(
            "{apiVersion: gameday.dev/v1alpha1, kind: Cord, metadata: {name: alone}, spec: {reason: nobody else is there}}",
        );
        let took = until_unharmed(&target.ip, Duration::from_secs(2)).await;
        println!("cord without an operator: unharmed after {took:?}");
        target.lab.operator("two");
        let status = target.lab.until_finished(&target.run).await.status.unwrap();
        kubectl(&["delete", "cords.gameday.dev", "--all"]);
        assert_eq!(status.verdict, Some(Verdict::Inconclusive));
        assert!(status.why.as_deref().unwrap().contains("nobody else is there"), "{:?}", status.why);
        nothing_is_left(&target).await;
    });
}

#[test]
fn a_run_deleted_ends_what_nodes_hold() {
    runtime().block_on(async {
        let target = holding("held-deleted", DELAY, "60s").await;
        target.lab.runs().delete(&target.run, &Default::default()).await.unwrap();
        let took = until_unharmed(&target.ip, Duration::from_secs(2)).await;
        println!("run deleted: unharmed after {took:?}");
        nothing_is_left(&target).await;
    });
}

#[test]
fn tenants_cannot_write_orders_to_nodes() {
    runtime().block_on(async {
        let lab = Lab::new("held-tenant").await;
        let who = format!("--as=system:serviceaccount:{}:breaker", lab.namespace);
        let may = |verb: &str, more: &[&str]| {
            let mut asked = Command::new("kubectl");
            asked.args(["auth", "can-i", verb, "injections.gameday.dev", "-n", "gameday-agents"]).args(more);
            String::from_utf8_lossy(&asked.output().unwrap().stdout).trim().to_owned()
        };
        for verb in ["create", "patch", "update", "delete", "deletecollection"] {
            assert_eq!((may(verb, &[]), may(verb, &[&who])), ("yes".to_owned(), "no".to_owned()), "{verb}");
        }
        for verb in ["patch", "update"] {
            assert_eq!(may(verb, &["--subresource=status", &who]), "no", "{verb} of the status");
        }
        let order =
            "{apiVersion: gameday.dev/v1alpha1, kind: Injection, metadata: {name: any, namespace: gameday-agents}, spec: {}}";
        let output = try_create(order, &[&who]);
        assert!(!output.status.success() && text(&output).contains("orbidden"), "{}", text(&output));
        let orders = injections(&lab.client).list(&ListParams::default()).await.unwrap();
        assert!(
            orders.iter().all(|order| order.status.as_ref().is_none_or(|status| status.phase != InjectionPhase::Holding)),
            "{:?}",
            orders.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        );
    });
}

#[test]
fn what_an_order_says_stays_and_so_does_its_end() {
    runtime().block_on(async {
        let lab = Lab::new("held-order").await;
        let orders = injections(&lab.client);
        let order: Injection = serde_json::from_value(serde_json::json!({
            "apiVersion": "gameday.dev/v1alpha1",
            "kind": "Injection",
            "metadata": {"name": "an-order"},
            "spec": {
                "run": {"namespace": lab.namespace, "name": "no-run", "uid": "no-run"},
                "experiment": "one",
                "node": "no-node",
                "pod": {"namespace": lab.namespace, "name": "no-pod", "uid": "no-pod"},
                "fault": {"cpu": {"percent": 10}},
                "hold": "10s",
            },
        }))
        .unwrap();
        orders.create(&PostParams::default(), &order).await.unwrap();
        let spec = async |change: serde_json::Value| {
            let change = Patch::Merge(serde_json::json!({"spec": change}));
            orders.patch("an-order", &PatchParams::default(), &change).await.map_err(|error| error.to_string())
        };
        let status = async |change: serde_json::Value| {
            let change = Patch::Merge(serde_json::json!({"status": change}));
            orders.patch_status("an-order", &PatchParams::default(), &change).await.map_err(|error| error.to_string())
        };
        let stays = "an injection is not edited";
        let refused = spec(serde_json::json!({"fault": {"cpu": {"percent": 90}}})).await.expect_err("another fault");
        assert!(refused.contains(stays), "{refused}");
        spec(serde_json::json!({"revert": true})).await.expect("reverted");
        let refused = spec(serde_json::json!({"revert": false})).await.expect_err("not reverted any more");
        assert!(refused.contains(stays), "{refused}");
        status(serde_json::json!({"phase": "Holding"})).await.expect("in force");
        status(serde_json::json!({"phase": "Cleared", "clean": "gone"})).await.expect("over");
        status(serde_json::json!({"phase": "Cleared", "clean": "gone"})).await.expect("the same again");
        // As a write that was sent before, and arrives now.
        let refused = status(serde_json::json!({"phase": "Holding"})).await.expect_err("in force again");
        assert!(refused.contains("an injection that is over stays as it is"), "{refused}");
        orders.delete("an-order", &DeleteParams::default()).await.unwrap();
    });
}

#[test]
fn one_fault_is_injected_from_flags() {
    runtime().block_on(async {
        let mut lab = Lab::new("held-inject").await;
        let address = lab.shop("checkout", 2, &[]).await;
        lab.operator("one");
        let probe = format!("http://{address}/healthz");
        let output = gameday(&[
            "inject",
            "cpu",
            "cores=0.1",
            "--pods",
            "app=checkout",
            "--for",
            "4s",
            "--http",
            &probe,
            "--service-account",
            "breaker",
            "-n",
            &lab.namespace,
        ]);
        println!("{}", text(&output));
        assert_eq!(output.status.code(), Some(0));
        let output = gameday(&["doctor"]);
        println!("{}", text(&output));
        assert_eq!(output.status.code(), Some(0));
    });
}

#[test]
fn an_agent_may_write_only_about_its_own_node() {
    runtime().block_on(async {
        let target = holding("held-fence", DELAY, "30s").await;
        let injections = injections(&target.lab.client).list(&ListParams::default()).await.unwrap();
        let name = injections
            .iter()
            .find(|injection| injection.spec.run.namespace == target.lab.namespace)
            .map(ResourceExt::name_any)
            .expect("the order");
        let write = async |bound: &[&str]| {
            let token = kubectl(&[&["-n", "gameday-agents", "create", "token", "gameday-agent"][..], bound].concat());
            let client = token_client(token.trim()).await;
            let change = serde_json::json!({"status": {"why": "mine"}});
            self::injections(&client).patch_status(&name, &PatchParams::default(), &Patch::Merge(change)).await
        };
        let pod = format!("agent-{}", target.node);
        let own = write(&["--bound-object-kind", "Pod", "--bound-object-name", &pod]).await;
        assert!(own.is_ok(), "{own:?}");
        let elsewhere = write(&[]).await.expect_err("a token of no node's agent").to_string();
        assert!(elsewhere.contains("an agent writes only about its own node"), "{elsewhere}");
    });
}

#[test]
fn an_agent_has_exactly_the_capabilities_of_the_faults_it_is_made_for() {
    runtime().block_on(async {
        // Bits of include/uapi/linux/capability.h.
        const SYS_PTRACE: u64 = 1 << 19;
        let network = 1 << 12 | 1 << 13 | SYS_PTRACE | 1 << 21 | 1 << 23;
        for (name, fault, expected) in [("caps-cpu", "{cpu: {cores: 0.1}}", SYS_PTRACE), ("caps-network", DELAY, network)] {
            kubectl(&["-n", "gameday-agents", "delete", "pods", "--all", "--force", "--grace-period=0"]);
            let target = holding(name, fault, "60s").await;
            let output =
                Command::new("pgrep").args(["-f", &format!("^/gameday agent --node {} ", target.node)]).output().unwrap();
            let pid: i32 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("one agent");
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent's status");
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                let line = status.lines().find_map(|line| line.strip_prefix(&format!("{set}:"))).expect("a set of capabilities");
                assert_eq!(u64::from_str_radix(line.trim(), 16).unwrap(), expected, "{name} {set}");
            }
            let pod = kubectl(&["-n", "gameday-agents", "get", "pod", &format!("agent-{}", target.node), "-o", "json"]);
            let pod: serde_json::Value = serde_json::from_str(&pod).unwrap();
            let security = &pod["spec"]["containers"][0]["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            assert!(security["privileged"].is_null() && pod["spec"]["hostNetwork"].is_null());
            let paths = pod["spec"]["volumes"].as_array().into_iter().flatten().filter(|volume| !volume["hostPath"].is_null());
            assert_eq!(paths.count(), 0);
            target.lab.runs().delete(&target.run, &Default::default()).await.unwrap();
            nothing_is_left(&target).await;
        }
    });
}

#[test]
fn standing_agents_hold_without_being_made() {
    runtime().block_on(async {
        let mut lab = Lab::new("held-standing").await;
        kubectl(&["-n", "gameday-agents", "delete", "pods", "--all", "--force", "--grace-period=0"]);
        let manifests = gameday(&["install", "--replicas", "0", "--agents", "standing", "--image", "lab.test/gameday:1"]);
        kubectl_apply(&String::from_utf8_lossy(&manifests.stdout));
        kubectl(&["-n", "gameday-agents", "rollout", "status", "daemonset/gameday-agent", "--timeout=60s"]);
        let address = lab.shop("checkout", 2, &[]).await;
        let operator = lab.operator_with("one", &["--agents", "standing"]);
        lab.apply(&game_day(&address, DELAY, "60s")).await;
        let target = holding_on(lab, operator, async |_, _| {}).await;
        assert!(answer_ms(&target.ip).await > 150.0);
        target.lab.runs().delete(&target.run, &Default::default()).await.unwrap();
        nothing_is_left(&target).await;
        let pods =
            kubectl(&["-n", "gameday-agents", "get", "pods", "-o", "jsonpath={.items[*].metadata.ownerReferences[0].kind}"]);
        kubectl(&["-n", "gameday-agents", "delete", "daemonset", "gameday-agent"]);
        assert_eq!(pods.split_whitespace().collect::<Vec<_>>(), ["DaemonSet"; 3]);
    });
}
