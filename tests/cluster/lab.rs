//! What the tests stand on: a namespace of their own with the shop in it, operators as processes that can be
//! killed and stopped, and the command line as a user types it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use gameday::api::{ExperimentPhase, GameDay, GameDayRun, RunPhase};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};

/// Longest that any wait in these tests takes before it is a failure. The lab shares two cores with the build.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Where the operator lives.
pub const OPERATOR_NAMESPACE: &str = "gameday";

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime for the tests")
}

/// One test's part of the lab. Dropping it deletes its namespace and kills its operators.
pub struct Lab {
    pub client: Client,
    pub namespace: String,
    operators: Vec<Operator>,
}

impl Lab {
    /// A fresh namespace on the lab, with the account that game days run as.
    pub async fn new(name: &str) -> Lab {
        let folder = std::env::var("GAMEDAY_LAB")
            .expect("the cluster tests need the lab: run tests/run, or tests/lab/lab up and set GAMEDAY_LAB and KUBECONFIG");
        assert!(PathBuf::from(&folder).join("admin.kubeconfig").exists(), "no lab is up in {folder}");
        let config = kube::Config::from_kubeconfig(&Default::default()).await.expect("KUBECONFIG names the lab");
        let client = Client::try_from(config).expect("a client for the lab");
        let lab = Lab { client, namespace: format!("t-{name}"), operators: Vec::new() };
        install();
        // The operators before were killed, and another would wait until their lease has expired.
        kubectl(&["-n", OPERATOR_NAMESPACE, "delete", "lease", "gameday", "--ignore-not-found"]);
        lab.delete_namespace().await;
        kubectl(&["create", "namespace", &lab.namespace]);
        kubectl_apply(&ACCOUNT.replace("NAMESPACE", &lab.namespace));
        lab
    }

    pub fn runs(&self) -> Api<GameDayRun> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn game_days(&self) -> Api<GameDay> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// The shop under this name with so many replicas, ready, and the address of its Service.
    pub async fn shop(&self, name: &str, replicas: i32, args: &[&str]) -> String {
        let args = serde_json::to_string(args).expect("arguments are strings");
        let manifest = SHOP
            .replace("NAMESPACE", &self.namespace)
            .replace("NAME", name)
            .replace("REPLICAS", &replicas.to_string())
            .replace("ARGS", &args);
        kubectl_apply(&manifest);
        let deployments = self.deployments();
        eventually(&format!("{name} is ready"), PATIENCE, async || {
            let status = deployments.get(name).await.ok()?.status?;
            (status.ready_replicas.unwrap_or(0) == replicas).then_some(())
        })
        .await;
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let service = services.get(name).await.expect("the shop's service");
        let address = service.spec.and_then(|spec| spec.cluster_ip).expect("a service has an address");
        wait_for_http(&address).await;
        address
    }

    /// The address of a Service.
    pub fn address(&self, service: &str) -> String {
        kubectl(&["-n", &self.namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])
    }

    /// Uids of the shop's pods that are not on their way out.
    pub async fn uids(&self, name: &str) -> Vec<String> {
        let pods = self.pods().list(&ListParams::default().labels(&format!("app={name}"))).await.expect("pods are listed");
        let mut uids: Vec<String> =
            pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).filter_map(|pod| pod.uid()).collect();
        uids.sort();
        uids
    }

    /// Starts an operator with the rights that the manifests give it, and waits until it is alive.
    pub fn operator(&mut self, identity: &str) -> usize {
        self.operator_with(identity, &["--agent-image", "lab.test/gameday:1"])
    }

    /// The same, with these arguments.
    pub fn operator_with(&mut self, identity: &str, args: &[&str]) -> usize {
        self.operators.push(Operator::start(identity, args));
        self.operators.len() - 1
    }

    pub fn kill(&mut self, operator: usize) {
        self.operators[operator].kill();
    }

    pub fn signal(&self, operator: usize, signal: &str) {
        self::signal(self.operators[operator].child.id().cast_signed(), signal);
    }

    /// Whether the operator's process has ended by itself, and how.
    pub fn ended(&mut self, operator: usize) -> Option<i32> {
        let status = self.operators[operator].child.try_wait().expect("a child can be waited for")?;
        Some(status.code().unwrap_or(-1))
    }

    pub async fn apply(&self, game_day: &str) {
        kubectl_apply(&game_day.replace("NAMESPACE", &self.namespace));
    }

    pub async fn run(&self, name: &str) -> GameDayRun {
        self.runs().get(name).await.unwrap_or_else(|error| panic!("run {name}: {error}"))
    }

    /// The only run of a game day, once there is one.
    pub async fn run_of(&self, game_day: &str) -> String {
        let runs = self.runs();
        eventually(&format!("{game_day} has a run"), PATIENCE, async || {
            let found = runs.list(&ListParams::default()).await.ok()?;
            found.into_iter().find(|run| run.spec.game_day_name == game_day).map(|run| run.name_any())
        })
        .await
    }

    pub async fn until_finished(&self, name: &str) -> GameDayRun {
        self.until_finished_within(name, Duration::from_secs(120)).await
    }

    pub async fn until_finished_within(&self, name: &str, within: Duration) -> GameDayRun {
        let runs = self.runs();
        eventually(&format!("run {name} is finished"), within, async || {
            let run = runs.get(name).await.ok()?;
            run.is_finished().then_some(run)
        })
        .await
    }

    pub async fn until_phase(&self, name: &str, phase: ExperimentPhase) -> GameDayRun {
        let runs = self.runs();
        eventually(&format!("run {name} is {phase}"), PATIENCE, async || {
            let run = runs.get(name).await.ok()?;
            let status = run.status.as_ref()?;
            assert!(status.phase != RunPhase::Finished, "finished before {phase}: {status:#?}");
            status.experiments.iter().any(|experiment| experiment.phase == phase).then_some(run)
        })
        .await
    }

    pub async fn replicas(&self, name: &str) -> i32 {
        self.deployments().get(name).await.expect("the deployment").spec.and_then(|spec| spec.replicas).unwrap_or(1)
    }

    pub async fn cordoned(&self) -> Vec<String> {
        let nodes = self.nodes().list(&ListParams::default()).await.expect("nodes are listed");
        nodes
            .into_iter()
            .filter(|node| node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false))
            .map(|node| node.name_any())
            .collect()
    }

    /// Everything that carries our label, anywhere.
    pub async fn held(&self) -> Vec<String> {
        let held = ListParams::default().labels(gameday::api::LABEL_HELD_BY);
        let deployments = Api::<Deployment>::all(self.client.clone()).list(&held).await.expect("deployments are listed");
        let nodes = self.nodes().list(&held).await.expect("nodes are listed");
        deployments.into_iter().map(|found| found.name_any()).chain(nodes.into_iter().map(|found| found.name_any())).collect()
    }

    async fn delete_namespace(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        if namespaces.delete(&self.namespace, &DeleteParams::default()).await.is_ok() {
            eventually("the old namespace is gone", PATIENCE, async || {
                let found = namespaces.get_opt(&self.namespace).await.ok()?;
                found.is_none().then_some(())
            })
            .await;
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for operator in &mut self.operators {
            if std::thread::panicking() {
                let log = std::fs::read_to_string(&operator.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!(
                    "last lines of operator {}:\n{}",
                    operator.identity,
                    lines[lines.len().saturating_sub(40)..].join("\n")
                );
            }
            operator.kill();
        }
        let deleted = Command::new("kubectl").args(["delete", "namespace", &self.namespace, "--wait=false"]).output();
        if let Err(error) = deleted {
            eprintln!("namespace {} was not deleted: {error}", self.namespace);
        }
    }
}

/// An operator as a process of this machine.
struct Operator {
    identity: String,
    child: Child,
    log: PathBuf,
}

impl Operator {
    fn start(identity: &str, args: &[&str]) -> Operator {
        let log = std::env::temp_dir().join(format!("gameday-operator-{identity}-{}.log", std::process::id()));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_gameday"))
            .args(["operator", "--namespace", OPERATOR_NAMESPACE, "--identity", identity, "--listen", "127.0.0.1:0"])
            .args(args)
            .env("KUBECONFIG", operator_kubeconfig())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle of the log"))
            .stderr(file)
            .spawn()
            .expect("the operator starts");
        Operator { identity: identity.to_owned(), child, log }
    }

    fn kill(&mut self) {
        // Already dead is as good.
        if self.child.try_wait().expect("a child can be waited for").is_none() {
            self.child.kill().expect("the operator is killed");
            self.child.wait().expect("the operator is reaped");
        }
    }
}

/// The manifests as `gameday install` writes them, with no operator pods: the tests bring their own processes.
fn install() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for args in [&["crds"][..], &["install", "--replicas", "0"][..]] {
            let manifests = gameday(args);
            assert!(manifests.status.success(), "{}", text(&manifests));
            kubectl_apply(&String::from_utf8_lossy(&manifests.stdout));
        }
        kubectl(&["delete", "cords.gameday.dev", "--all"]);
        kubectl(&[
            "wait",
            "--for=condition=Established",
            "crd/gamedays.gameday.dev",
            "crd/gamedayruns.gameday.dev",
            "crd/cords.gameday.dev",
            "crd/injections.gameday.dev",
            "crd/guardrails.gameday.dev",
        ]);
        kubectl(&["delete", "guardrails.gameday.dev", "--all"]);
        kubectl_apply(PERMISSIVE);
    });
}

/// A kubeconfig with the operator's own account, so that every test also proves that its rights suffice.
fn operator_kubeconfig() -> PathBuf {
    static ONCE: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    ONCE.get_or_init(|| {
        let token = kubectl(&["-n", OPERATOR_NAMESPACE, "create", "token", "gameday", "--duration=6h"]);
        token_kubeconfig("operator", token.trim())
    })
    .clone()
}

/// The lab's kubeconfig for somebody who has this token, and nothing else.
pub fn token_kubeconfig(who: &str, token: &str) -> PathBuf {
    let view = kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"]);
    let mut config: serde_json::Value = serde_json::from_str(&view).expect("a kubeconfig");
    config["users"][0]["user"] = serde_json::json!({"token": token});
    let path = std::env::temp_dir().join(format!("gameday-{who}-{}.kubeconfig", std::process::id()));
    std::fs::write(&path, config.to_string()).expect("the kubeconfig is written");
    path
}

/// A client of somebody who has this token, and nothing else.
pub async fn token_client(token: &str) -> Client {
    let mut config = kube::Config::infer().await.expect("a kubeconfig");
    config.auth_info = kube::config::AuthInfo { token: Some(token.to_owned().into()), ..Default::default() };
    Client::try_from(config).expect("a client for the lab")
}

pub fn signal(pid: i32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill runs").success());
}

/// The pid of one of the lab's processes, by its name there.
pub fn lab_pid(name: &str) -> i32 {
    let lab = std::env::var("GAMEDAY_LAB").expect("the lab");
    let pid = std::fs::read_to_string(format!("{lab}/logs/{name}.pid")).unwrap_or_else(|error| panic!("pid of {name}: {error}"));
    pid.trim().parse().expect("a pid")
}

/// The API server, stopped until this is dropped, whatever becomes of the test.
pub struct ApiServer {
    pid: i32,
}

impl ApiServer {
    pub fn stopped() -> Self {
        let pid = lab_pid("apiserver");
        signal(pid, "-STOP");
        ApiServer { pid }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        signal(self.pid, "-CONT");
    }
}

/// The command line, as a user types it.
pub fn gameday(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gameday")).args(args).stdin(Stdio::null()).output().expect("gameday runs")
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn kubectl(args: &[&str]) -> String {
    let output = Command::new("kubectl").args(args).output().expect("kubectl runs");
    assert!(output.status.success(), "kubectl {}: {}", args.join(" "), text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn kubectl_apply(manifests: &str) {
    let output = try_apply(manifests);
    assert!(output.status.success(), "{}\n{manifests}", text(&output));
}

/// `kubectl apply -f -`, which may be refused.
pub fn try_apply(manifests: &str) -> Output {
    hand_in("apply", manifests, &[])
}

/// `kubectl create -f -` with more arguments, which may be refused.
pub fn try_create(manifests: &str, more: &[&str]) -> Output {
    hand_in("create", manifests, more)
}

fn hand_in(verb: &str, manifests: &str, more: &[&str]) -> Output {
    use std::io::Write;
    let mut child = Command::new("kubectl")
        .args([verb, "-f", "-"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    child.stdin.take().expect("a pipe").write_all(manifests.as_bytes()).expect("kubectl reads");
    child.wait_with_output().expect("kubectl ends")
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(what: &str, patience: Duration, ask: impl AsyncFn() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks for a while that nothing happens.
pub async fn never(what: &str, length: Duration, ask: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while start.elapsed() < length {
        assert!(!ask().await, "{what}, after {:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wait_for_http(address: &str) {
    eventually(&format!("{address} answers"), PATIENCE, async || {
        let connected = tokio::time::timeout(Duration::from_millis(500), tokio::net::TcpStream::connect((address, 80))).await;
        matches!(connected, Ok(Ok(_))).then_some(())
    })
    .await;
}

/// What the other tests are about must not wait for guardrails: those have tests of their own.
const PERMISSIVE: &str = r#"
apiVersion: gameday.dev/v1alpha1
kind: Guardrail
metadata: {name: permissive}
spec:
  namespaceSelector: {matchExpressions: [{key: tests, operator: DoesNotExist}]}
  runs: 100
  reach: {singleReplica: Allow}
  budgets: Ignore
"#;

const ACCOUNT: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: breaker, namespace: NAMESPACE}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: breaker, namespace: NAMESPACE}
rules:
- {apiGroups: [""], resources: [pods], verbs: [delete]}
- {apiGroups: [""], resources: [pods/eviction], verbs: [create]}
- {apiGroups: [faults.gameday.dev], resources: ["*"], verbs: [inject]}
- {apiGroups: [gameday.dev], resources: [injections], verbs: [create]}
- {apiGroups: [apps], resources: [deployments/scale, statefulsets/scale], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: breaker, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: breaker}
subjects: [{kind: ServiceAccount, name: breaker, namespace: NAMESPACE}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: test-node-breaker}
rules:
- {apiGroups: [""], resources: [nodes], verbs: [patch]}
- {apiGroups: [faults.gameday.dev], resources: ["*"], verbs: [inject]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: NAMESPACE-breaker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: test-node-breaker}
subjects: [{kind: ServiceAccount, name: breaker, namespace: NAMESPACE}]
"#;

const SHOP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      automountServiceAccountToken: false
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: NAME}}}
      containers:
      - name: shop
        image: lab.test/shop:1
        imagePullPolicy: IfNotPresent
        args: ARGS
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  selector: {app: NAME}
  ports: [{port: 80, targetPort: 8080}]
"#;
