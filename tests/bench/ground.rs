//! What the benchmarks on the lab stand on.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gameday::api::{GameDayRun, GameDayRunSpec};
use kube::Client;
use kube::api::Api;
use serde_json::json;

pub fn measure(bench: impl Future<Output = ()>) {
    // Cargo also runs bench targets as tests; there is nothing to test here.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(bench);
}

/// A run with these pieces; the probe asks the API server's own health unless told otherwise.
pub fn run(name: &str, probe: serde_json::Value, experiment: serde_json::Value, targets: i32) -> GameDayRun {
    let mut steady =
        json!({"name": "shop", "workload": {"kind": "Deployment", "name": "shop"}, "expect": {"ready": {"count": 1}}});
    merge(&mut steady, probe);
    let spec: GameDayRunSpec = serde_json::from_value(json!({
        "gameDayName": "bench",
        "gameDay": {
            "hypothesis": "The shop stays up.",
            "serviceAccountName": "breaker",
            "seed": 1,
            "steadyState": [steady],
            "blastRadius": {"targets": targets, "percent": 100, "hold": "5m"},
            "baseline": "0s",
            "recovery": "5s",
            "experiments": [experiment],
        },
    }))
    .expect("a run");
    GameDayRun::new(name, spec)
}

pub fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    if let (Some(into), serde_json::Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

pub async fn finished(runs: &Api<GameDayRun>, name: &str) -> GameDayRun {
    wait("the run is finished", async || runs.get(name).await.ok().filter(GameDayRun::is_finished)).await
}

pub async fn wait<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "not within 90 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn print_times(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |q: f64| took[((took.len() - 1) as f64 * q).round() as usize].as_secs_f64() * 1_000.0;
    println!("{what}: p50 {:.1} ms, p90 {:.1} ms, worst {:.1} ms (n = {})", at(0.5), at(0.9), at(1.0), took.len());
}

pub struct Operator {
    pub identity: String,
    pub child: Child,
}

impl Operator {
    pub fn start(identity: &str, args: &[&str]) -> Operator {
        let token = kubectl(&["-n", "gameday", "create", "token", "gameday", "--duration=6h"]);
        let view = kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"]);
        let mut config: serde_json::Value = serde_json::from_str(&view).expect("a kubeconfig");
        config["users"][0]["user"] = json!({"token": token.trim()});
        let path = std::env::temp_dir().join(format!("{identity}.kubeconfig"));
        std::fs::write(&path, config.to_string()).expect("written");
        let log = std::fs::File::create(std::env::temp_dir().join(format!("{identity}.log"))).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_gameday"))
            .args(["operator", "--namespace", "gameday", "--identity", identity, "--listen", "127.0.0.1:0"])
            .args(args)
            .env("KUBECONFIG", path)
            // As the manifests have it.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the operator starts");
        Operator { identity: identity.to_owned(), child }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("{} was not killed: {error}", self.identity);
        }
    }
}

pub fn gameday(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gameday")).args(args).output().expect("gameday runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn kubectl(args: &[&str]) -> String {
    let output = Command::new("kubectl").args(args).output().expect("kubectl runs");
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn apply(manifests: &str) {
    use std::io::Write;
    let mut child = Command::new("kubectl")
        .args(["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    child.stdin.take().expect("a pipe").write_all(manifests.as_bytes()).expect("kubectl reads");
    assert!(child.wait().expect("kubectl ends").success());
}

/// Waits until one of these operators leads.
pub async fn somebody_leads(client: &Client) {
    wait("somebody leads", async || {
        let lease: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(client.clone(), "gameday");
        lease.get("gameday").await.ok()?.spec?.holder_identity.filter(|name| name.starts_with("bench-")).map(drop)
    })
    .await;
}
