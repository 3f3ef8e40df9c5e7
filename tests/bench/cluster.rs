//! How fast, how quiet, how small: measured on the lab, never in CI.
//!
//! `tests/bench/run` builds for release, brings up the lab with ghost pods, and runs this. Each figure is
//! printed with the number of tries; nothing is asserted.

#[path = "ground.rs"]
#[allow(dead_code, reason = "the benchmarks share it, and each uses a part")]
mod ground;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use gameday::api::{ExperimentPhase, GameDayRun};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use ground::{Operator, apply, finished, gameday, merge, print_times, run, somebody_leads, wait};

const NAMESPACE: &str = "bench";
const GHOSTS: &str = "ghosts";

fn main() {
    ground::measure(bench());
}

async fn bench() {
    let folder = PathBuf::from(std::env::var("GAMEDAY_LAB").expect("run tests/bench/run: it brings up the lab"));
    let config = kube::Config::from_kubeconfig(&Default::default()).await.expect("KUBECONFIG names the lab");
    let client = Client::try_from(config).expect("a client");
    apply(&gameday(&["install", "--replicas", "0"]));
    apply(MANIFESTS);
    let operators = [Operator::start("bench-one", &[]), Operator::start("bench-two", &[])];
    wait("the shop is ready", async || {
        let shop: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        (shop.get("shop").await.ok()?.status?.ready_replicas? == 3).then_some(())
    })
    .await;
    somebody_leads(&client).await;

    few_to_choose_from(&client).await;
    visible_to_deleted(&client).await;
    two_hundred(&client, &folder).await;
    run_deleted_to_gone(&client).await;
    probe_to_stopped(&client, "every: 1s, breachAfter: 1", json!({"every": "1s", "timeout": "500ms", "breachAfter": 1}), 10)
        .await;
    probe_to_stopped(&client, "the defaults", json!({}), 5).await;
    idle(&folder, &operators).await;
}

/// A game day chooses among a few pods, not among all of the cluster: sixty of the ghosts get a label of their own.
async fn few_to_choose_from(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), GHOSTS);
    let label = Patch::Merge(json!({"metadata": {"labels": {"bench": "few"}}}));
    for pod in pods.list(&ListParams::default().limit(60)).await.expect("pods") {
        pods.patch(&pod.name_any(), &PatchParams::default(), &label).await.expect("labelled");
    }
}

/// Run visible to a watcher → pod deleted, as a second watcher sees both.
async fn visible_to_deleted(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), GHOSTS);
    let runs_here: Api<GameDayRun> = Api::namespaced(client.clone(), GHOSTS);
    let mut took = Vec::new();
    for number in 0..50 {
        let version =
            pods.list(&ListParams::default().limit(1)).await.expect("pods").metadata.resource_version.unwrap_or_default();
        let mut pod_watch = pods.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
        let version =
            runs_here.list(&ListParams::default().limit(1)).await.expect("runs").metadata.resource_version.unwrap_or_default();
        let mut run_watch = runs_here.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
        let name = format!("kill-{number}");
        let kill = json!({"name": "kill", "targets": {"pods": {"matchLabels": {"bench": "few"}}}, "fault": {"podKill": {"gracePeriod": "0s"}}, "hold": "1s"});
        let probe = json!({"workload": null, "tcp": {"address": "10.96.0.1:443"}, "expect": {}});
        runs_here.create(&PostParams::default(), &run(&name, probe, kill, 1)).await.expect("a run");
        let visible = async {
            while let Some(event) = run_watch.next().await {
                if matches!(event, Ok(WatchEvent::Added(run)) if run.name_any() == name) {
                    break;
                }
            }
            Instant::now()
        };
        let deleted = async {
            while let Some(event) = pod_watch.next().await {
                if let Ok(WatchEvent::Deleted(_)) = event {
                    break;
                }
            }
            Instant::now()
        };
        let (visible, deleted) = tokio::join!(visible, deleted);
        took.push(deleted.saturating_duration_since(visible));
        finished(&runs_here, &name).await;
    }
    print_times("run visible → pod deleted (2,000 pods in the cluster, at most 60 candidates, recorded first)", took);
}

/// 200 pods killed in one experiment, and what it costs the API server.
async fn two_hundred(client: &Client, folder: &std::path::Path) {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), GHOSTS);
    let mut took = Vec::new();
    for number in 0..3 {
        let before = Audit::read(folder);
        let name = format!("many-{number}");
        let kill = json!({
            "name": "kill",
            "targets": {"pods": {"matchLabels": {"app": "ghost"}}, "choose": {"count": 200}},
            "fault": {"podKill": {"gracePeriod": "0s"}},
            "hold": "3s",
        });
        let probe = json!({"workload": null, "tcp": {"address": "10.96.0.1:443"}, "expect": {}});
        runs.create(&PostParams::default(), &run(&name, probe, kill, 200)).await.expect("a run");
        let run = finished(&runs, &name).await;
        let experiment = run.status.expect("a status").experiments.remove(0);
        let last = experiment.targets.iter().filter_map(|target| Some(target.bite.as_ref()?.at)).max().expect("bites");
        let first = experiment.injected.expect("injected");
        assert_eq!(experiment.targets.iter().filter(|target| target.bite.is_some()).count(), 200);
        took.push(Duration::try_from(last.duration_since(first)).unwrap_or_default());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = Audit::read(folder);
        println!(
            "  API writes of this run but the 200 deletes: {}; questions about permissions: {}",
            after.writes - before.writes,
            after.questions - before.questions
        );
    }
    print_times("200 pods: recorded → the last confirmed gone", took);
}

/// A run deleted while a fault is held → set back, and the run gone.
async fn run_deleted_to_gone(client: &Client) {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), NAMESPACE);
    let shop: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let (mut gone, mut back) = (Vec::new(), Vec::new());
    for number in 0..10 {
        let name = format!("delete-{number}");
        runs.create(&PostParams::default(), &run(&name, json!({}), scale_down(), 3)).await.expect("a run");
        holding(&runs, &name).await;
        let start = Instant::now();
        runs.delete(&name, &DeleteParams::default()).await.expect("the run is deleted");
        while runs.get_opt(&name).await.expect("an answer").is_some() {}
        gone.push(start.elapsed());
        while shop.get("shop").await.expect("the shop").spec.and_then(|spec| spec.replicas) != Some(3) {}
        back.push(start.elapsed());
        all_ready(&shop).await;
    }
    print_times("run deleted → run gone", gone);
    print_times("run deleted → replicas set back", back);
}

/// A probe begins to fail → the fault is taken off, while a fault is held.
async fn probe_to_stopped(client: &Client, what: &str, probe: serde_json::Value, tries: usize) {
    let runs: Api<GameDayRun> = Api::namespaced(client.clone(), NAMESPACE);
    let shop: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let canary: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let mut took = Vec::new();
    for number in 0..tries {
        let name = format!("stop-{}-{number}", what.len());
        let mut watched = json!({"workload": {"kind": "Deployment", "name": "canary"}, "expect": {"ready": {"count": 1}}});
        merge(&mut watched, probe.clone());
        runs.create(&PostParams::default(), &run(&name, watched, scale_down(), 3)).await.expect("a run");
        holding(&runs, &name).await;
        // At another part of the probe's interval each time.
        tokio::time::sleep(Duration::from_millis(137 * (number as u64 % 7))).await;
        scale(&canary, "canary", 0).await;
        wait("the canary is gone", async || {
            let status = canary.get("canary").await.ok()?.status?;
            (status.ready_replicas.unwrap_or(0) == 0).then_some(())
        })
        .await;
        let start = Instant::now();
        while shop.get("shop").await.expect("the shop").spec.and_then(|spec| spec.replicas) != Some(3) {
            assert!(start.elapsed() < Duration::from_secs(60), "the fault was not stopped");
        }
        took.push(start.elapsed());
        runs.delete(&name, &DeleteParams::default()).await.expect("the run is deleted");
        scale(&canary, "canary", 1).await;
        wait("the canary is back", async || (canary.get("canary").await.ok()?.status?.ready_replicas? == 1).then_some(())).await;
        all_ready(&shop).await;
    }
    print_times(&format!("probe fails → fault stopped, {what}"), took);
}

/// Requests and memory of two operators with nothing to do.
async fn idle(folder: &std::path::Path, operators: &[Operator]) {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = Audit::read(folder);
    let length = Duration::from_secs(120);
    tokio::time::sleep(length).await;
    let requests = Audit::read(folder).requests_since(&before);
    println!(
        "idle: {requests} requests in {} s from two operators together = {:.2}/s",
        length.as_secs(),
        requests as f64 / length.as_secs_f64()
    );
    for operator in operators {
        let status = std::fs::read_to_string(format!("/proc/{}/status", operator.child.id())).expect("the operator lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
        println!(
            "resident memory of {} with 2,000 pods in the cluster: {}",
            operator.identity,
            line.trim_start_matches("VmRSS:").trim()
        );
    }
}

fn scale_down() -> serde_json::Value {
    json!({
        "name": "scale",
        "targets": {"workload": {"kind": "Deployment", "name": "shop"}},
        "fault": {"scale": {"replicas": 2}},
        "hold": "2m",
    })
}

async fn scale(deployments: &Api<Deployment>, name: &str, replicas: i32) {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch(name, &PatchParams::default(), &patch).await.expect("scaled");
}

async fn all_ready(shop: &Api<Deployment>) {
    wait("the shop is whole", async || (shop.get("shop").await.ok()?.status?.ready_replicas? == 3).then_some(())).await;
}

async fn holding(runs: &Api<GameDayRun>, name: &str) {
    wait("the fault is held", async || {
        let status = runs.get(name).await.ok()?.status?;
        let experiment = status.experiments.first()?;
        assert!(experiment.phase <= ExperimentPhase::Holding, "{experiment:#?}");
        (experiment.phase == ExperimentPhase::Holding).then_some(())
    })
    .await;
}

/// Requests that the operators made, from the API server's audit log.
struct Audit {
    requests: usize,
    writes: usize,
    /// Questions about permissions: they are posted, and nothing is written.
    questions: usize,
    deletes: usize,
}

impl Audit {
    fn read(folder: &std::path::Path) -> Audit {
        let mut audit = Audit { requests: 0, writes: 0, questions: 0, deletes: 0 };
        let logs = std::fs::read_dir(folder.join("logs")).expect("the lab's logs");
        for log in logs.map(|entry| entry.expect("an entry").path()) {
            if !log.file_name().is_some_and(|name| name.to_string_lossy().starts_with("audit")) {
                continue;
            }
            for line in std::fs::read_to_string(&log).expect("the audit log").lines() {
                let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
                // A watch is one request with two stages: it counts when it begins.
                let counted = if event["verb"] == "watch" { "ResponseStarted" } else { "ResponseComplete" };
                if event["user"]["username"] != "system:serviceaccount:gameday:gameday" || event["stage"] != counted {
                    continue;
                }
                audit.requests += 1;
                match event["verb"].as_str().unwrap_or_default() {
                    "delete" if event["objectRef"]["resource"] == "pods" => audit.deletes += 1,
                    "create" if event["objectRef"]["resource"] == "subjectaccessreviews" => audit.questions += 1,
                    "create" | "update" | "patch" | "delete" if event["objectRef"]["resource"] != "leases" => audit.writes += 1,
                    _ => {}
                }
            }
        }
        audit
    }

    fn requests_since(&self, before: &Audit) -> usize {
        self.requests - before.requests
    }
}

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: breaker, namespace: bench}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: breaker, namespace: ghosts}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: bench-breaker}
rules:
- {apiGroups: [""], resources: [pods], verbs: [delete]}
- {apiGroups: [apps], resources: [deployments/scale], verbs: [patch]}
- {apiGroups: [faults.gameday.dev], resources: ["*"], verbs: [inject]}
---
apiVersion: gameday.dev/v1alpha1
kind: Guardrail
metadata: {name: bench}
spec: {runs: 10, reach: {singleReplica: Allow}, budgets: Ignore}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench-breaker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bench-breaker}
subjects:
- {kind: ServiceAccount, name: breaker, namespace: bench}
- {kind: ServiceAccount, name: breaker, namespace: ghosts}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: bench}
spec:
  replicas: 3
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers: [{name: shop, image: "lab.test/shop:1", imagePullPolicy: IfNotPresent, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: canary, namespace: bench}
spec:
  replicas: 1
  selector: {matchLabels: {app: canary}}
  template:
    metadata: {labels: {app: canary}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: shop, image: "lab.test/shop:1", imagePullPolicy: IfNotPresent, readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]
"#;
