//! How soon faults that nodes hold begin and end, and what they cost: measured on the lab, never in CI.
//!
//! `tests/bench/run held` builds for release, brings up the lab, and runs this. A packet's fate is seen from outside the
//! target: by connections made to it every few milliseconds, each of which takes one round trip.
//!
//! Parts, all of them unless named: `demand`, `standing`, `cpu`, `many`, `memory`.

#[path = "ground.rs"]
#[allow(dead_code, reason = "the benchmarks share it, and each uses a part")]
mod ground;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use gameday::api::{Cord, CordSpec, GameDayRun, Injection};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use ground::{Operator, apply, finished, gameday, kubectl, print_times, run, somebody_leads, wait};

const NAMESPACE: &str = "bench-held";
const MANY: usize = 50;

fn main() {
    ground::measure(bench());
}

async fn bench() {
    let config = kube::Config::from_kubeconfig(&Default::default()).await.expect("run tests/bench/run held");
    let client = Client::try_from(config).expect("a client");
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    apply(&gameday(&["install", "--replicas", "0"]));
    apply(MANIFESTS);
    let shop: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    wait("the shop is ready", async || {
        (shop.get("shop").await.ok()?.status?.ready_replicas? == i32::try_from(MANY).ok()?).then_some(())
    })
    .await;
    // Of an operator that was killed, which seems to lead for as long as its lease lasts.
    kubectl(&["-n", "gameday", "delete", "lease", "gameday", "--ignore-not-found"]);
    if wants("demand") {
        let _operator = Operator::start("bench-on-demand", &["--agent-image", "lab.test/gameday:1"]);
        somebody_leads(&client).await;
        begin_to_delayed(&client, "on demand", 50, true).await;
    }

    kubectl(&["-n", "gameday-agents", "delete", "pods", "--all", "--force", "--grace-period=0"]);
    apply(&gameday(&["install", "--replicas", "0", "--agents", "standing", "--image", "lab.test/gameday:1"]));
    kubectl(&["-n", "gameday-agents", "rollout", "status", "daemonset/gameday-agent", "--timeout=60s"]);
    kubectl(&["-n", "gameday", "delete", "lease", "gameday", "--ignore-not-found"]);
    let _operator = Operator::start("bench-standing", &["--agents", "standing"]);
    somebody_leads(&client).await;
    println!("agent, idle: resident {}", resident(&agents()));
    if wants("standing") {
        begin_to_delayed(&client, "standing", 50, false).await;
    }
    if wants("cpu") {
        begin_to_burning(&client, 20).await;
    }
    if wants("many") {
        many(&client, "cord").await;
        many(&client, "breach").await;
    }
    if wants("memory") {
        memory(&client).await;
    }
    kubectl(&["-n", "gameday-agents", "delete", "daemonset", "gameday-agent"]);
}

/// What a connection to a pod met, one after the other.
#[derive(Clone, Copy)]
struct Met {
    at: Instant,
    took: Duration,
    answered: bool,
}

/// Connects to a pod again and again until it is stopped.
struct Pinger {
    met: Arc<Mutex<Vec<Met>>>,
    task: JoinHandle<()>,
}

impl Pinger {
    fn start(ip: String, every: Duration, patience: Duration) -> Pinger {
        let met = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&met);
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(every);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let (ip, kept) = (ip.clone(), Arc::clone(&kept));
                // Not waited for: the next packet must not wait for the fate of this one.
                tokio::spawn(async move {
                    let at = Instant::now();
                    let connect = tokio::net::TcpStream::connect((ip.as_str(), 8080));
                    let answered = matches!(tokio::time::timeout(patience, connect).await, Ok(Ok(_)));
                    kept.lock().await.push(Met { at, took: at.elapsed(), answered });
                });
            }
        });
        Pinger { met, task }
    }

    /// When the first packet was sent, after a moment, of which this is true.
    async fn first(&self, since: Instant, what: &str, is: impl Fn(&Met) -> bool) -> Instant {
        wait(what, async || {
            let met = self.met.lock().await;
            met.iter().filter(|met| met.at >= since && is(met)).map(|met| met.at).min()
        })
        .await
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn harmed(met: &Met) -> bool {
    !met.answered || met.took >= Duration::from_millis(20)
}

fn unharmed(met: &Met) -> bool {
    met.answered && met.took < Duration::from_millis(10)
}

async fn pods(client: &Client) -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    pods.list(&ListParams::default().labels("app=shop")).await.expect("pods").items
}

fn ip(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("an address")
}

/// A run of one experiment on pods with this label, watched by a probe that this does not hurt.
fn held(name: &str, label: Value, count: usize, fault: Value) -> GameDayRun {
    let probe = json!({"workload": null, "tcp": {"address": "10.96.0.1:443"}, "expect": {}});
    let experiment = json!({
        "name": "held",
        "targets": {"pods": {"matchLabels": label}, "choose": {"count": count}},
        "fault": fault,
        "hold": "2m",
    });
    run(name, probe, experiment, i32::try_from(count).unwrap_or(i32::MAX))
}

/// Creates a run; returns when a watcher has seen it.
async fn visible(client: &Client, new: &GameDayRun) -> Instant {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), NAMESPACE);
    let version = runs.list(&ListParams::default().limit(1)).await.expect("runs").metadata.resource_version.unwrap_or_default();
    let mut watch = runs.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
    runs.create(&PostParams::default(), new).await.expect("a run");
    while let Some(event) = watch.next().await {
        if matches!(event, Ok(WatchEvent::Added(run)) if run.name_any() == new.name_any()) {
            break;
        }
    }
    Instant::now()
}

async fn stop(client: &Client, name: &str) {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), NAMESPACE);
    let change = Patch::Merge(json!({"spec": {"stop": {"reason": "measured"}}}));
    runs.patch(name, &PatchParams::default(), &change).await.expect("the run is stopped");
}

/// Run visible → first packet delayed; stop sent → first packet unharmed.
async fn begin_to_delayed(client: &Client, agents: &str, tries: usize, without_agents: bool) {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = pods(client).await.remove(0);
    let all: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let label = Patch::Merge(json!({"metadata": {"labels": {"one": "yes"}}}));
    all.patch(&pod.name_any(), &PatchParams::default(), &label).await.expect("labelled");
    let (mut began, mut ended) = (Vec::new(), Vec::new());
    for number in 0..tries {
        if without_agents {
            kubectl(&["-n", "gameday-agents", "delete", "pods", "--all", "--force", "--grace-period=0"]);
            wait("agents are gone", async || self::agents().is_empty().then_some(())).await;
        }
        let pinger = Pinger::start(ip(&pod), Duration::from_millis(2), Duration::from_secs(1));
        let name = format!("delay-{}-{number}", agents.replace(' ', "-"));
        let run = held(&name, json!({"one": "yes"}), 1, json!({"network": {"delay": "25ms"}}));
        let seen = visible(client, &run).await;
        let delayed = pinger.first(seen, "the first packet is delayed", harmed).await;
        began.push(delayed.saturating_duration_since(seen));
        // It has bitten, and is reverted as an order of its own.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let ordered = Instant::now();
        stop(client, &name).await;
        let free = pinger.first(ordered, "a packet passes unharmed", unharmed).await;
        ended.push(free.saturating_duration_since(ordered));
        finished(&runs, &name).await;
    }
    print_times(&format!("agents {agents}: run visible → first packet delayed"), began);
    print_times(&format!("agents {agents}: stop sent → first packet unharmed"), ended);
}

/// Run visible → the worker burns in the target's cgroup, as its node says.
async fn begin_to_burning(client: &Client, tries: usize) {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), NAMESPACE);
    let injections: Api<Injection> = Api::namespaced(client.clone(), "gameday-agents");
    let mut took = Vec::new();
    for number in 0..tries {
        let name = format!("cpu-{tries}-{number}");
        let run = held(&name, json!({"one": "yes"}), 1, json!({"cpu": {"cores": 0.05}}));
        visible(client, &run).await;
        let seen = Timestamp::now();
        let began = wait("the worker burns", async || {
            let found = injections.list(&ListParams::default()).await.ok()?;
            found.into_iter().find(|order| order.spec.run.name == name)?.status?.began
        })
        .await;
        took.push(Duration::try_from(began.duration_since(seen)).unwrap_or_default());
        stop(client, &name).await;
        finished(&runs, &name).await;
    }
    print_times("cpu: run visible → its worker is in force", took);
}

/// All pods cut off at once, and let go by a cord or a breach.
async fn many(client: &Client, by: &str) {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), NAMESPACE);
    let targets = pods(client).await;
    let (mut cut, mut restored) = (Vec::new(), Vec::new());
    for number in 0..5 {
        let patience = Duration::from_millis(100);
        let pingers: Vec<Pinger> =
            targets.iter().map(|pod| Pinger::start(ip(pod), Duration::from_millis(25), patience)).collect();
        let name = format!("many-{by}-{number}");
        let mut run = held(&name, json!({"app": "shop"}), MANY, json!({"network": {"partition": true}}));
        if by == "breach" {
            // It watches another, which is cut off on its own node's way when all are held.
            run.spec.game_day.steady_state[0] = serde_json::from_value(json!({
                "name": "canary", "workload": {"kind": "Deployment", "name": "canary"}, "expect": {"ready": {"count": 1}},
                "every": "1s", "timeout": "500ms", "breachAfter": 1,
            }))
            .expect("a probe");
        }
        let seen = visible(client, &run).await;
        let mut all_cut = seen;
        for pinger in &pingers {
            all_cut = all_cut.max(pinger.first(seen, "it is cut off", harmed).await);
        }
        cut.push(all_cut.saturating_duration_since(seen));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let ordered = match by {
            "cord" => {
                let cords: Api<Cord> = Api::all(client.clone());
                let spec = CordSpec { reason: "measured".to_owned(), by: None, namespaces: Vec::new() };
                let now = Instant::now();
                cords.create(&PostParams::default(), &Cord::new("bench", spec)).await.expect("pulled");
                now
            }
            _ => {
                let shop: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
                let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
                shop.patch("canary", &PatchParams::default(), &none).await.expect("scaled");
                breach(&runs, &name).await
            }
        };
        let mut all_free = ordered;
        for pinger in &pingers {
            all_free = all_free.max(pinger.first(ordered, "it is let go", unharmed).await);
        }
        restored.push(all_free.saturating_duration_since(ordered));
        if by == "cord" {
            kubectl(&["delete", "cords.gameday.dev", "bench"]);
        } else {
            let shop: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
            let one = Patch::Merge(json!({"spec": {"replicas": 1}}));
            shop.patch("canary", &PatchParams::default(), &one).await.expect("scaled");
            wait("the canary is back", async || (shop.get("canary").await.ok()?.status?.ready_replicas? == 1).then_some(()))
                .await;
        }
        runs.delete(&name, &DeleteParams::default()).await.expect("deleted");
        drop(pingers);
        wait("every order is gone", async || {
            let injections: Api<Injection> = Api::namespaced(client.clone(), "gameday-agents");
            injections.list(&ListParams::default()).await.ok()?.items.is_empty().then_some(())
        })
        .await;
    }
    print_times(&format!("{MANY} pods: run visible → all cut off"), cut);
    print_times(&format!("{MANY} pods: {by} → all let go"), restored);
}

/// When the probe's bad sample was taken.
async fn breach(runs: &Api<GameDayRun>, name: &str) -> Instant {
    let at = wait("the breach", async || {
        let status = runs.get(name).await.ok()?.status?;
        status.experiments.first()?.breached
    })
    .await;
    let ago = Duration::try_from(Timestamp::now().duration_since(at)).unwrap_or_default();
    Instant::now().checked_sub(ago).expect("the breach was after this machine began")
}

/// Resident memory of an agent with holders, and of a holder of each kind.
async fn memory(client: &Client) {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), NAMESPACE);
    let run = held("ten-each", json!({"app": "shop"}), 30, json!({"network": {"delay": "1ms"}}));
    visible(client, &run).await;
    wait("thirty holders", async || (holders().len() >= 30).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("three agents with {} holders: agents resident {}", holders().len(), resident(&agents()));
    stop(client, "ten-each").await;
    finished(&runs, "ten-each").await;
    for (kind, fault) in [
        ("network", json!({"network": {"delay": "1ms"}})),
        ("cpu", json!({"cpu": {"cores": 0.01}})),
        ("memory", json!({"memory": {"bytes": 16_777_216}})),
        ("disk-fill", json!({"diskFill": {"path": "/data", "bytes": 16_777_216}})),
        ("disk-io", json!({"diskIo": {"path": "/data", "atOnce": 1, "rate": 1_048_576}})),
        ("files", json!({"files": {"path": "/data", "delay": "1ms"}})),
        ("processes", json!({"processes": {"leave": 800}})),
        ("pause", json!({"pause": {}})),
    ] {
        let name = format!("memory-of-{kind}");
        visible(client, &held(&name, json!({"one": "yes"}), 1, fault)).await;
        wait("a holder", async || (!holders().is_empty()).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!("holder and workers of {kind}: resident {}", resident(&holders()));
        stop(client, &name).await;
        finished(&runs, &name).await;
    }
}

fn processes(pattern: &str) -> Vec<i32> {
    let output = Command::new("pgrep").args(["-f", pattern]).output().expect("pgrep runs");
    String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn agents() -> Vec<i32> {
    processes("^/gameday agent ")
}

fn holders() -> Vec<i32> {
    processes("^/proc/self/exe hold$")
}

fn resident(pids: &[i32]) -> String {
    let of = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("? gone");
        line.trim().to_owned()
    };
    pids.iter().map(of).collect::<Vec<_>>().join(", ")
}

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: bench-held}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: breaker, namespace: bench-held}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: breaker, namespace: bench-held}
rules:
- {apiGroups: [faults.gameday.dev], resources: ["*"], verbs: [inject]}
- {apiGroups: [gameday.dev], resources: [injections], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: breaker, namespace: bench-held}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: breaker}
subjects: [{kind: ServiceAccount, name: breaker, namespace: bench-held}]
---
apiVersion: gameday.dev/v1alpha1
kind: Guardrail
metadata: {name: bench}
spec: {runs: 10, reach: {singleReplica: Allow}, budgets: Ignore}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: bench-held}
spec:
  replicas: 50
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      automountServiceAccountToken: false
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: shop}}}
      containers:
      - name: shop
        image: lab.test/shop:1
        imagePullPolicy: IfNotPresent
        resources: {requests: {cpu: 1m, memory: 4Mi}, limits: {memory: 64Mi}}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: canary, namespace: bench-held}
spec:
  replicas: 1
  selector: {matchLabels: {app: canary}}
  template:
    metadata: {labels: {app: canary}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: shop, image: "lab.test/shop:1", imagePullPolicy: IfNotPresent, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]
"#;
