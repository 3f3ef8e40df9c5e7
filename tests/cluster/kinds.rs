//! Every kind of fault that a node holds: it bites, it ends with whatever dies, and a sweep of the nodes finds nothing.
//!
//! `GAMEDAY_REPEAT=20` kills that often; once is what CI does. `GAMEDAY_OUTAGE=120` leaves the API server stopped for so
//! many seconds, though all has ended before. `--ignored clock` sets the clock of the machine, which CI does not.

use std::cell::Cell;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gameday::api::{ExperimentPhase, GameDayRunStatus, Verdict};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::held::{answer, holders, injections};
use crate::lab::{ApiServer, Lab, PATIENCE, eventually, kubectl, kubectl_apply, lab_pid, runtime, signal};

/// With a limit of everything that is used up, and a file that is opened for each request.
const TARGET: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  replicas: 1
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      containers:
      - name: shop
        image: lab.test/shop:1
        imagePullPolicy: IfNotPresent
        args: [--journal, /data/journal]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 200m, memory: 64Mi}}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  selector: {app: NAME}
  ports: [{port: 80, targetPort: 8080}]
---
"#;

/// One is paused, so it is not asked.
const ASKED: [&str; 2] = ["network", "files"];

const KINDS: [(&str, &str); 8] = [
    ("network", "{network: {delay: 50ms}}"),
    ("cpu", "{cpu: {percent: 20}}"),
    ("memory", "{memory: {percent: 50}}"),
    ("disk-fill", "{diskFill: {path: /data, bytes: 16777216}}"),
    ("disk-io", "{diskIo: {path: /data, atOnce: 1, rate: 1048576}}"),
    ("files", "{files: {path: /data, delay: 20ms}}"),
    ("processes", "{processes: {leave: 0}}"),
    ("pause", "{pause: {}}"),
];

/// All of them at once, each on a pod of its own.
struct Kit {
    lab: Lab,
    operator: usize,
    addresses: Vec<String>,
    number: u32,
    run: String,
}

impl Kit {
    async fn new(name: &str) -> Kit {
        let mut lab = Lab::new(name).await;
        let target = TARGET.replace("NAMESPACE", &lab.namespace);
        kubectl_apply(&KINDS.iter().map(|(name, _)| target.replace("NAME", name)).collect::<String>());
        let operator = lab.operator("one");
        let mut kit = Kit { lab, operator, addresses: Vec::new(), number: 0, run: String::new() };
        kit.until_ready().await;
        kit.addresses = ASKED.iter().map(|name| kit.lab.address(name)).collect();
        kit
    }

    async fn pods(&self) -> Vec<Pod> {
        let pods = self.lab.pods().list(&ListParams::default()).await.expect("pods are listed");
        pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    async fn until_ready(&self) {
        self.until_ready_for(Duration::ZERO).await;
    }

    /// Until every target has been ready for so long.
    async fn until_ready_for(&self, length: Duration) {
        let deployments = self.lab.deployments();
        let since = Cell::new(None);
        eventually("every target is ready", PATIENCE, async || {
            let found = deployments.list(&ListParams::default()).await.ok()?;
            let ready = found.iter().filter(|found| found.status.as_ref().is_some_and(|status| status.ready_replicas == Some(1)));
            if ready.count() < KINDS.len() {
                since.set(None);
                return None;
            }
            let first = since.get().unwrap_or_else(Instant::now);
            since.set(Some(first));
            (first.elapsed() >= length).then_some(())
        })
        .await;
    }

    /// Begins a run and waits until all have bitten.
    async fn hold(&mut self, hold: &str) {
        self.number += 1;
        let name = format!("kit-{}", self.number);
        let probes: String = self
            .addresses
            .iter()
            .enumerate()
            .map(|(index, address)| {
                format!(
                    "  - {{name: p{index}, http: {{url: \"http://{address}/\"}}, every: 500ms, timeout: 2s, expect: {{status: [200, 502], latency: 2s}}, breachAfter: 20}}\n"
                )
            })
            .collect();
        let experiments: String = KINDS
            .iter()
            .map(|(kind, fault)| {
                format!(
                    "  - {{name: {kind}, after: [], targets: {{pods: {{matchLabels: {{app: {kind}}}}}}}, fault: {fault}, hold: {hold}}}\n"
                )
            })
            .collect();
        kubectl_apply(&format!(
            "apiVersion: gameday.dev/v1alpha1\nkind: GameDay\nmetadata: {{name: {name}, namespace: {}}}\nspec:\n  hypothesis: The shop stands it.\n  serviceAccountName: breaker\n  steadyState:\n{probes}  blastRadius: {{targets: 8, percent: 100, hold: 10m}}\n  baseline: 1s\n  recovery: 20s\n  experiments:\n{experiments}",
            self.lab.namespace
        ));
        self.run = self.lab.run_of(&name).await;
        let runs = self.lab.runs();
        let of_network = ListParams::default().labels("app=network");
        let pod = self.lab.pods().list(&of_network).await.expect("pods are listed").items.remove(0);
        let ip = pod.status.and_then(|status| status.pod_ip).expect("an address");
        eventually("all have bitten", PATIENCE, async || {
            // What a Service sends on from here comes from its node, as the kubelet's probes do, and is spared.
            answer(&ip).await;
            let status = runs.get(&self.run).await.ok()?.status?;
            assert!(status.verdict.is_none(), "{status:#?}");
            status.experiments.iter().all(|experiment| experiment.phase == ExperimentPhase::Holding).then_some(())
        })
        .await;
        assert!(holders().len() >= KINDS.len());
    }

    async fn stop(&self) {
        let stop = kube::api::Patch::Merge(serde_json::json!({"spec": {"stop": {"reason": "tried"}}}));
        self.lab.runs().patch(&self.run, &Default::default(), &stop).await.expect("the run is stopped");
    }

    /// How long until no process holds anything.
    async fn until_gone(&self, within: Duration) -> Duration {
        let start = Instant::now();
        eventually("no holder and no worker is left", within, async || holders().is_empty().then_some(())).await;
        start.elapsed()
    }

    /// Nothing is left of anything, on any node, and everybody answers.
    async fn sweep(&self) {
        let injections = injections(&self.lab.client);
        eventually("every order has ended", PATIENCE, async || {
            let found = injections.list(&ListParams::default()).await.ok()?;
            let of = found.into_iter().filter(|injection| injection.spec.run.namespace == self.lab.namespace);
            of.into_iter().all(|injection| injection.status.is_some_and(|status| status.phase.is_over())).then_some(())
        })
        .await;
        self.until_ready().await;
        for pod in self.pods().await {
            let name = pod.name_any();
            let pid = process_of(&pod);
            assert_eq!(traced(pid), 0, "threads of {name} are held");
            sweep_network(&name, pid);
            let ip = pod.status.and_then(|status| status.pod_ip).expect("an address");
            eventually(&format!("{name} answers unharmed"), Duration::from_secs(5), async || {
                let asked = Instant::now();
                answer(&ip).await.filter(|()| asked.elapsed() < Duration::from_millis(40))
            })
            .await;
        }
        assert_eq!(holders(), Vec::<i32>::new());
    }

    async fn finished(&self) -> GameDayRunStatus {
        self.lab.until_finished(&self.run).await.status.unwrap()
    }
}

fn sweep_network(name: &str, pid: i32) {
    let tables = Command::new("nsenter").args(["-t", &pid.to_string(), "-n", "nft", "list", "tables"]).output().unwrap();
    assert!(tables.status.success(), "nft: {tables:?}");
    assert!(!String::from_utf8_lossy(&tables.stdout).contains("gameday"), "{name}: {tables:?}");
}

/// No rule of ours is left in the network of any pod of a namespace.
pub async fn sweep_networks(lab: &Lab) {
    for pod in lab.pods().list(&ListParams::default().labels("app=checkout")).await.expect("pods are listed") {
        sweep_network(&pod.name_any(), process_of(&pod));
    }
}

/// The first process of a pod's container.
pub fn process_of(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()).expect("containers");
    let id = statuses[0].container_id.as_deref().and_then(|id| id.rsplit("://").next()).expect("a container's id");
    let mut found: Vec<i32> = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroup| cgroup.contains(id)))
        .collect();
    found.sort_unstable();
    *found.first().unwrap_or_else(|| panic!("no process of {id}"))
}

/// Threads of a process that somebody has stopped.
fn traced(pid: i32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let state = |path: std::path::PathBuf| std::fs::read_to_string(path.join("stat")).unwrap_or_default();
    tasks
        .filter(|task| state(task.path()).rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['t', 'T'])))
        .count()
}

fn say(what: &str, mut took: Vec<Duration>) {
    took.sort();
    println!(
        "{what}: {} times, all kinds gone after p50 {:?}, worst {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
}

fn repeat() -> u64 {
    from_env("GAMEDAY_REPEAT", 1)
}

fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |number| number.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Kills something while all are held, again and again, and says how long the last fault took to go.
async fn killed(name: &str, within: Duration, kill: impl AsyncFn(&mut Kit)) {
    let mut kit = Kit::new(name).await;
    let mut took = Vec::new();
    for _ in 0..repeat() {
        kit.hold("5m").await;
        kill(&mut kit).await;
        took.push(kit.until_gone(within).await);
        let status = kit.finished().await;
        assert_eq!(status.verdict, Some(Verdict::Inconclusive), "{status:#?}");
        kit.sweep().await;
    }
    say(name, took);
}

#[test]
fn every_kind_of_fault_bites_passes_and_is_gone() {
    runtime().block_on(async {
        let mut kit = Kit::new("kinds").await;
        kit.hold("8s").await;
        let status = kit.finished().await;
        for experiment in &status.experiments {
            let target = &experiment.targets[0];
            println!(
                "{}: {:?}\n  bite {:?}\n  clean {:?}",
                experiment.name,
                experiment.verdict,
                target.bite.as_ref().map(|proof| &proof.what),
                target.clean.as_ref().map(|proof| &proof.what)
            );
        }
        assert_eq!(status.verdict, Some(Verdict::Passed), "{status:#?}");
        kit.sweep().await;
    });
}

#[test]
fn killed_holders_take_every_kind_along() {
    runtime().block_on(killed("kill-holders", Duration::from_secs(1), async |_| {
        for pid in holders() {
            // A worker goes with its holder.
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }));
}

#[test]
fn killed_agents_take_every_kind_along() {
    runtime().block_on(killed("kill-agents", Duration::from_secs(1), async |_| {
        for pid in agents() {
            signal(pid, "-9");
        }
    }));
}

fn agents() -> Vec<i32> {
    let output = Command::new("pgrep").args(["-f", "^/gameday agent "]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// All agents, stopped until this is dropped.
struct HungAgents(Vec<i32>);

impl HungAgents {
    fn stopped() -> HungAgents {
        let agents = agents();
        agents.iter().for_each(|pid| signal(*pid, "-STOP"));
        HungAgents(agents)
    }
}

impl Drop for HungAgents {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, "-CONT"));
    }
}

#[test]
fn with_hung_agents_every_kind_ends_by_itself_and_the_run_says_what_was_not_read_back() {
    runtime().block_on(async {
        let mut kit = Kit::new("hang-agents").await;
        kit.hold("10s").await;
        let hung = HungAgents::stopped();
        say("agents hung", vec![kit.until_gone(Duration::from_secs(30)).await]);
        let status = kit.lab.until_finished_within(&kit.run, Duration::from_secs(240)).await.status.unwrap();
        assert_eq!(status.verdict, Some(Verdict::Inconclusive), "{status:#?}");
        for experiment in &status.experiments {
            println!("{}: {:?} {:?}", experiment.name, experiment.verdict, experiment.doubt);
            assert!(experiment.doubt.as_ref().is_some_and(|doubt| doubt.contains("not proven clean after")), "{experiment:#?}");
        }
        drop(hung);
        kit.sweep().await;
    });
}

#[test]
fn deleted_agents_take_every_kind_along() {
    runtime().block_on(killed("delete-agents", Duration::from_secs(2), async |_| {
        kubectl(&["-n", "gameday-agents", "delete", "pods", "-l", "app.kubernetes.io/name=gameday-agent", "--wait=false"]);
    }));
}

#[test]
fn without_an_operator_every_kind_ends_within_half_a_minute() {
    runtime().block_on(async {
        let mut kit = Kit::new("kill-operator").await;
        let mut took = Vec::new();
        for time in 0..repeat() {
            kit.hold("5m").await;
            kit.lab.kill(kit.operator);
            took.push(kit.until_gone(Duration::from_secs(30)).await);
            kubectl(&["-n", crate::lab::OPERATOR_NAMESPACE, "delete", "lease", "gameday"]);
            kit.operator = kit.lab.operator(&format!("next-{time}"));
            assert_eq!(kit.finished().await.verdict, Some(Verdict::Inconclusive));
            kit.sweep().await;
        }
        say("operator killed", took);
    });
}

#[test]
fn without_an_api_server_every_kind_ends_within_half_a_minute() {
    runtime().block_on(async {
        let mut kit = Kit::new("stop-api").await;
        let mut took = Vec::new();
        for time in 0..repeat() {
            kit.hold("5m").await;
            let stopped = ApiServer::stopped();
            took.push(kit.until_gone(Duration::from_secs(30)).await);
            let outage = Duration::from_secs(from_env("GAMEDAY_OUTAGE", 0));
            tokio::time::sleep(outage.saturating_sub(took[took.len() - 1])).await;
            assert_eq!(holders(), Vec::<i32>::new(), "nothing begins again meanwhile");
            drop(stopped);
            // An operator that cannot keep its lease ends; as a pod it would be started anew.
            kit.operator = kit.lab.operator(&format!("next-{time}"));
            assert_ne!(kit.finished().await.verdict, Some(Verdict::Passed));
            kit.sweep().await;
        }
        say("API server stopped", took);
    });
}

/// A kubelet that was killed, started again when this is dropped.
struct Kubelet {
    node: String,
    command: Vec<String>,
    folder: std::path::PathBuf,
}

impl Kubelet {
    fn killed(node: &str) -> Kubelet {
        let pid = lab_pid(&format!("{node}-kubelet"));
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the kubelet runs");
        let command = command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let command = command.filter(|word| !word.is_empty()).collect();
        let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).expect("its folder");
        signal(pid, "-9");
        Kubelet { node: node.to_owned(), command, folder }
    }
}

impl Drop for Kubelet {
    #[allow(clippy::zombie_processes, reason = "it outlives this process; the lab ends it")]
    fn drop(&mut self) {
        let lab = std::env::var("GAMEDAY_LAB").expect("the lab");
        let log =
            std::fs::OpenOptions::new().append(true).open(format!("{lab}/logs/{}-kubelet.log", self.node)).expect("its log");
        // Its neighbour has the node's network.
        let network = format!("--net=/proc/{}/ns/net", lab_pid(&format!("{}-containerd", self.node)));
        let made = || std::fs::metadata(DEVICES).and_then(|socket| socket.modified()).ok();
        let before = made();
        let child = Command::new("setsid")
            .arg("nsenter")
            .arg(network)
            .args(&self.command)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log twice"))
            .stderr(log)
            .spawn()
            .expect("the kubelet starts");
        std::fs::write(format!("{lab}/logs/{}-kubelet.pid", self.node), format!("{}\n", child.id())).expect("its pid is written");
        // Not while it makes its socket anew may the next do so: it would end.
        let began = Instant::now();
        while made() == before && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// All kubelets of this machine share it.
const DEVICES: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";

#[test]
fn without_kubelets_every_kind_ends_when_it_is_told_to() {
    runtime().block_on(async {
        let mut kit = Kit::new("kill-kubelets").await;
        let mut took = Vec::new();
        for _ in 0..repeat() {
            kit.hold("5m").await;
            let killed: Vec<Kubelet> = ["node1", "node2", "node3"].map(Kubelet::killed).into();
            kit.stop().await;
            took.push(kit.until_gone(Duration::from_secs(2)).await);
            drop(killed);
            assert_eq!(kit.finished().await.verdict, Some(Verdict::Inconclusive));
            kit.sweep().await;
            // A kubelet that was started anew calls its pods unready for a moment, some seconds later.
            kit.until_ready_for(Duration::from_secs(5)).await;
        }
        say("kubelets killed", took);
    });
}

/// The way of each node to all others, cut until this is dropped.
struct Cut;

impl Cut {
    fn made() -> Cut {
        Cut::set("down");
        Cut
    }

    fn set(state: &str) {
        for node in 1..=3 {
            let link = format!("gdlab-{node}");
            assert!(Command::new("ip").args(["link", "set", &link, state]).status().expect("ip runs").success());
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        Cut::set("up");
    }
}

#[test]
fn with_the_nodes_links_cut_every_kind_ends_within_half_a_minute() {
    runtime().block_on(async {
        let mut kit = Kit::new("cut-links").await;
        let mut took = Vec::new();
        for _ in 0..repeat() {
            kit.hold("5m").await;
            let cut = Cut::made();
            took.push(kit.until_gone(Duration::from_secs(30)).await);
            drop(cut);
            assert_ne!(kit.finished().await.verdict, Some(Verdict::Passed));
            kit.sweep().await;
        }
        say("links cut", took);
    });
}

/// The clock of this machine, wrong until this is dropped.
struct WrongClock {
    /// Sets it right if this process does not.
    other: Child,
    /// How far ahead of the clock that nobody can set it is right.
    right: i64,
}

const NANOSECONDS: i64 = 1_000_000_000;

fn nanoseconds(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * NANOSECONDS + now.tv_nsec
}

/// So far ahead of the clock that nobody can set.
fn set_clock(ahead: i64) {
    let time = nanoseconds(ClockId::Boottime) + ahead;
    let time = Timespec { tv_sec: time.div_euclid(NANOSECONDS), tv_nsec: time.rem_euclid(NANOSECONDS) };
    clock_settime(ClockId::Realtime, time).expect("the clock of this machine can be set");
}

impl WrongClock {
    fn by(minutes: i64) -> WrongClock {
        let right = nanoseconds(ClockId::Realtime) - nanoseconds(ClockId::Boottime);
        let other = Command::new("sh")
            .args(["-c", r#"read right && exit; date -s @$(awk "{printf \"%.3f\", $1 + \$1}" /proc/uptime)"#])
            .arg("sh")
            .arg((right as f64 / NANOSECONDS as f64).to_string())
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        set_clock(right + minutes * 60 * NANOSECONDS);
        WrongClock { other, right }
    }
}

impl Drop for WrongClock {
    fn drop(&mut self) {
        set_clock(self.right);
        let told = self.other.stdin.take().map(|mut other| writeln!(other, "right"));
        assert!(matches!(told, Some(Ok(()))) && self.other.wait().expect("it ends").success());
    }
}

#[test]
#[ignore = "sets the clock of this machine, an hour on and back, for seconds"]
fn with_the_clock_set_an_hour_on_and_back_every_kind_is_held_and_ends_in_its_time() {
    const WRONG: Duration = Duration::from_secs(4);
    runtime().block_on(async {
        let mut kit = Kit::new("clock").await;
        let mut took = Vec::new();
        for _ in 0..repeat() {
            kit.hold("5m").await;
            let back = WrongClock::by(-60);
            tokio::time::sleep(WRONG).await;
            assert!(holders().len() >= KINDS.len(), "an hour back");
            drop(back);
            let on = WrongClock::by(60);
            tokio::time::sleep(WRONG).await;
            assert!(holders().len() >= KINDS.len(), "an hour on");
            kit.stop().await;
            took.push(kit.until_gone(Duration::from_secs(2)).await);
            drop(on);
            // A kubelet that looks at a token in that hour finds it old, and makes one that is valid in an hour.
            kubectl(&["-n", "gameday-agents", "delete", "pods", "-l", "app.kubernetes.io/name=gameday-agent"]);
            assert_eq!(kit.finished().await.verdict, Some(Verdict::Inconclusive));
            kit.sweep().await;

            kit.hold("20s").await;
            let held = Instant::now();
            // In 48 minutes a token is old.
            for minutes in [40, -60] {
                let _wrong = WrongClock::by(minutes);
                tokio::time::sleep(WRONG).await;
                assert!(holders().len() >= KINDS.len(), "{minutes} min");
            }
            kit.until_gone(Duration::from_secs(20)).await;
            // Those that bit first wait for those that bit last, which is some seconds.
            let held = held.elapsed();
            println!("held for 20 s by their order, and for {held:?} after all had bitten");
            assert!(held > Duration::from_secs(14) && held < Duration::from_secs(21), "{held:?}");
            assert_eq!(kit.finished().await.verdict, Some(Verdict::Passed));
            kit.sweep().await;
        }
        say("clock an hour on", took);
    });
}
