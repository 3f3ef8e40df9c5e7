//! The agent of one node: orders become holders, and what holders say becomes status.
//!
//! It listens on nothing and executes nothing but its own file. What it holds ends with it.

mod deadman;
mod hold;
mod names;
mod order;
mod pipe;
mod proc;
mod spawner;
mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::api::{
    ANNOTATION_CANNOT, ANNOTATION_FAULTS, ANNOTATION_LET_GO, Cord, CordSpec, Injection, InjectionPhase, InjectionSpec,
    InjectionStatus, OnRestart,
};
use crate::cluster::{Change, client, follow, leader};
use crate::holder::Clean;

use hold::{After, Between, CONTAINER_GONE, Hold, again, without_container};
use names::{Answers, Names};
use order::Local;
use proc::Processes;
use spawner::{Heard, Spawner};
use status::Statuses;

/// The deadman is asked this often.
const TICK: Duration = Duration::from_millis(250);
/// The agent says that it is there this often.
const HEARTBEAT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Options {
    pub kubeconfig: Option<std::path::PathBuf>,
    pub node: String,
    /// Of agents and their orders.
    pub namespace: String,
    /// Where the operator's Lease is.
    pub operator_namespace: String,
    /// Uid of this agent's pod.
    pub identity: String,
    /// Names of the faults that it has the capabilities for.
    pub faults: Vec<String>,
    /// Of the node: from there the kubelet probes.
    pub node_addresses: Vec<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    NoConnection(#[from] client::NoConnection),
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    #[error("what this node can hold could not be tried: {0}")]
    Checks(String),
    #[error("a watch that should go on for ever has ended")]
    Ended,
}

/// What a watch or a holder says.
enum News {
    Injection(Box<Change<DeserializeGuard<Injection>>>),
    Cord(Box<Change<DeserializeGuard<Cord>>>),
    /// The operator's Lease has changed, and somebody holds it. With what is to be let go.
    Renewed(HashSet<String>),
    /// What the names of an order stand for.
    Named {
        injection: String,
        said: Result<Answers, String>,
    },
}

/// Runs the agent until SIGTERM or SIGINT. What it holds is reverted then.
///
/// # Errors
/// It cannot begin.
pub async fn run(options: Options) -> Result<(), Error> {
    let orphans = proc::end_orphans();
    if orphans > 0 {
        tracing::warn!(orphans, "ended holders that a dead agent had left");
    }
    let checks = spawner::checks().map_err(Error::Checks)?;
    let made_for = checks.into_iter().filter(|check| options.faults.contains(&check.fault));
    let cannot: BTreeMap<String, String> =
        made_for.filter_map(|check| Some((check.part.unwrap_or(check.fault), check.cannot?))).collect();
    let client = client::connect(options.kubeconfig.as_deref()).await?;
    let (heard, mut hears) = mpsc::unbounded_channel();
    let spawner = Spawner::start(heard)?;
    let (told, mut news) = mpsc::unbounded_channel();
    let (listed, lists) = oneshot::channel();
    let watching = watch(&client, &options, &told, listed);
    let mut watching = std::pin::pin!(watching);
    let beating = async {
        // One that cannot see its orders is not there for anybody.
        if lists.await.is_ok() {
            heartbeat(&client, &options, &cannot).await;
        }
    };
    let mut beating = std::pin::pin!(beating);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut agent = Agent {
        spawner,
        processes: Processes::default(),
        statuses: Statuses::new(&client, &options.namespace),
        holds: HashMap::new(),
        orders: HashMap::new(),
        cords: HashMap::new(),
        cords_read: false,
        renewed: None,
        let_go: HashSet::new(),
        names: HashMap::new(),
        node_addresses: options.node_addresses.clone(),
        told: told.clone(),
    };
    tracing::info!(node = options.node, ?cannot, "ready");
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = tick.tick() => {}
            Some(said) = news.recv() => agent.learn(said),
            Some((name, said)) = hears.recv() => agent.hear(&name, said),
            () = &mut watching => return Err(Error::Ended),
            () = &mut beating => return Err(Error::Ended),
        }
        agent.look();
    }
    // Holders end when their pipes are closed, and die with this process.
    agent.end_all("the agent was asked to stop");
    let last_words = async {
        while !agent.holds.is_empty() {
            let Some((name, said)) = hears.recv().await else { break };
            agent.hear(&name, said);
        }
        agent.statuses.finish().await;
    };
    if tokio::time::timeout(Duration::from_secs(3), last_words).await.is_err() {
        tracing::warn!("not every holder's last words were written");
    }
    Ok(())
}

/// `listed` is told when the orders of this node have been read for the first time.
async fn watch(client: &Client, options: &Options, told: &mpsc::UnboundedSender<News>, listed: oneshot::Sender<()>) {
    let tell = |news: News| {
        // The receiver lives as long as this.
        let _ = told.send(news);
    };
    let orders: Api<DeserializeGuard<Injection>> = Api::namespaced(client.clone(), &options.namespace);
    let config = watcher::Config::default().fields(&format!("spec.node={}", options.node));
    let mut listed = Some(listed);
    let orders = follow(orders, config, "injections", |change| {
        let all = matches!(change, Change::Only(_));
        if let Some(listed) = listed.take_if(|_| all) {
            // Whom it is told lives as long as this.
            let _ = listed.send(());
        }
        tell(News::Injection(Box::new(change)));
    });
    let cords: Api<DeserializeGuard<Cord>> = Api::all(client.clone());
    let cords = follow(cords, watcher::Config::default(), "cords", |change| tell(News::Cord(Box::new(change))));
    let leases: Api<Lease> = Api::namespaced(client.clone(), &options.operator_namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", leader::LEASE));
    let mut version = None;
    let lease = follow(leases, config, "lease", |change| {
        if let Change::Is(lease) = change {
            let held = lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref().is_some_and(|who| !who.is_empty()));
            // A watch that is taken up again shows the same once more: that is no renewal. Nor is the first look, if
            // the Lease says itself that it is old.
            let is_first = version.is_none();
            if held && version != lease.resource_version() {
                version = lease.resource_version();
                if !is_first || is_fresh(&lease, Timestamp::now()) {
                    tell(News::Renewed(let_go(&lease)));
                }
            }
        }
    });
    tokio::join!(orders, cords, lease);
}

/// Says again and again that this agent is there, and what it cannot do.
async fn heartbeat(client: &Client, options: &Options, cannot: &BTreeMap<String, String>) {
    let api: Api<Lease> = Api::namespaced(client.clone(), &options.namespace);
    let said = BTreeMap::from([
        (ANNOTATION_CANNOT.to_owned(), serde_json::to_string(cannot).unwrap_or_default()),
        (ANNOTATION_FAULTS.to_owned(), options.faults.join(",")),
    ]);
    loop {
        let spec = LeaseSpec {
            holder_identity: Some(options.identity.clone()),
            renew_time: Some(MicroTime(Timestamp::now())),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        let change = serde_json::json!({"metadata": {"annotations": said}, "spec": spec});
        let mut written = client::ask(api.patch(&options.node, &PatchParams::default(), &Patch::Merge(change))).await.map(drop);
        if written.as_ref().is_err_and(client::Error::is_not_found) {
            let metadata =
                ObjectMeta { name: Some(options.node.clone()), annotations: Some(said.clone()), ..ObjectMeta::default() };
            written = client::ask(api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) })).await.map(drop);
        }
        let pause = match written {
            Ok(()) => HEARTBEAT,
            Err(error) => {
                tracing::warn!(%error, "could not say that it is here; it is tried again");
                Duration::from_secs(1)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

struct Agent {
    spawner: Spawner,
    processes: Processes,
    statuses: Statuses,
    /// Holders that live, by the name of their order.
    holds: HashMap<String, Hold>,
    /// By uid.
    orders: HashMap<String, Injection>,
    cords: HashMap<String, Cord>,
    cords_read: bool,
    /// When the operator's lease was last seen to change.
    renewed: Option<Instant>,
    /// What that says is to end, in the words of [`InjectionSpec::held_for`].
    let_go: HashSet<String>,
    /// By the name of the order that needs them.
    names: HashMap<String, Names>,
    node_addresses: Vec<IpAddr>,
    told: mpsc::UnboundedSender<News>,
}

impl Agent {
    fn learn(&mut self, news: News) {
        match news {
            News::Injection(change) => self.learn_order(*change),
            News::Cord(change) => self.learn_cord(*change),
            News::Renewed(let_go) => (self.renewed, self.let_go) = (Some(Instant::now()), let_go),
            News::Named { injection, said } => {
                if let Some(names) = self.names.get_mut(&injection) {
                    names.said = Some(said);
                }
            }
        }
    }

    fn learn_order(&mut self, change: Change<DeserializeGuard<Injection>>) {
        match change {
            Change::Is(DeserializeGuard(Ok(mut injection))) => {
                let uid = injection.uid().unwrap_or_default();
                // News that is older than this process's own word does not begin anything again, or find it lost.
                if let Some(known) = self.orders.get(&uid).filter(|order| order.is_over()) {
                    injection.status.clone_from(&known.status);
                }
                self.orders.insert(uid, injection);
            }
            Change::Is(DeserializeGuard(Err(invalid))) => {
                let name = invalid.metadata.name.clone().unwrap_or_default();
                tracing::error!(injection = name, error = invalid.error, "an order cannot be read");
                if self.holds.contains_key(&name) {
                    self.end(&name, "its order cannot be read any more");
                } else {
                    self.refuse(&name, format!("the order cannot be read: {}", invalid.error));
                }
            }
            Change::Gone(gone) => {
                self.orders.remove(gone.uid().as_deref().unwrap_or_default());
                self.end_deleted(&gone.name_any());
            }
            Change::Only(uids) => {
                let gone: Vec<Injection> = {
                    let (kept, gone) = std::mem::take(&mut self.orders).into_iter().partition(|(uid, _)| uids.contains(uid));
                    let gone: HashMap<String, Injection> = gone;
                    self.orders = kept;
                    gone.into_values().collect()
                };
                for gone in gone {
                    self.end_deleted(&gone.name_any());
                }
            }
        }
    }

    fn learn_cord(&mut self, change: Change<DeserializeGuard<Cord>>) {
        match change {
            Change::Is(DeserializeGuard(Ok(cord))) => {
                self.cords.insert(cord.uid().unwrap_or_default(), cord);
            }
            Change::Is(DeserializeGuard(Err(invalid))) => {
                // In doubt, revert: a cord that cannot be read covers everything.
                let uid = invalid.metadata.uid.clone().unwrap_or_default();
                let spec = CordSpec { reason: "it cannot be read".to_owned(), by: None, namespaces: Vec::new() };
                self.cords.insert(uid, Cord::new(invalid.metadata.name.as_deref().unwrap_or_default(), spec));
            }
            Change::Gone(DeserializeGuard(gone)) => {
                let uid = match gone {
                    Ok(cord) => cord.uid(),
                    Err(invalid) => invalid.metadata.uid,
                };
                self.cords.remove(&uid.unwrap_or_default());
            }
            Change::Only(uids) => {
                self.cords.retain(|uid, _| uids.contains(uid));
                self.cords_read = true;
            }
        }
    }

    /// Whether an order says itself that it is to end, or the operator says it of the experiment's all at once.
    fn is_reverted(&self, spec: &InjectionSpec) -> bool {
        spec.revert || self.let_go.contains(&InjectionSpec::held_for(&spec.run.uid, &spec.experiment))
    }

    fn must_stop(&self, name: &str, namespace: &str) -> Option<String> {
        let lease = self.renewed.map_or(Duration::MAX, |renewed| renewed.elapsed());
        let cords: Vec<Cord> = self.cords.values().cloned().collect();
        deadman::must_stop(&[deadman::Order { name, namespace }], lease, &cords).into_iter().next().map(|(_, why)| why)
    }

    /// What is to be begun or ended now.
    fn look(&mut self) {
        let held: Vec<(String, String)> = self.holds.iter().map(|(name, hold)| (name.clone(), hold.namespace.clone())).collect();
        for (name, namespace) in held {
            if let Some(why) = self.must_stop(&name, &namespace) {
                self.end(&name, &why);
            }
        }
        let orders: Vec<Injection> = self.orders.values().cloned().collect();
        for order in &orders {
            self.follow_order(order);
        }
        for (name, hold) in &mut self.holds {
            hold.kill_if_stuck(name);
        }
        self.names.retain(|name, _| orders.iter().any(|order| order.name_any() == *name && !order.is_over()));
    }

    fn follow_order(&mut self, order: &Injection) {
        let name = order.name_any();
        let spec = &order.spec;
        if self.holds.contains_key(&name) {
            if order.is_over() {
                return self.end(&name, "another agent of this node has said that it is over");
            }
            return self.follow_hold(&name, spec);
        }
        let recorded = order.status.clone().unwrap_or_default();
        let over = |phase, why: &str, clean: Option<&str>| InjectionStatus {
            phase,
            clean: clean.map(str::to_owned),
            why: Some(why.to_owned()),
            ended: Some(Timestamp::now()),
            ..recorded.clone()
        };
        match recorded.phase {
            InjectionPhase::Cleared | InjectionPhase::Lost | InjectionPhase::Refused => {}
            // This process did not begin it: the holder ended with the agent that did.
            InjectionPhase::Holding => {
                let (why, clean) = after_a_restart();
                self.over(&name, over(InjectionPhase::Lost, &why, clean));
            }
            InjectionPhase::Pending if recorded.began.is_some() => {
                let (why, clean) = after_a_restart();
                self.over(&name, over(InjectionPhase::Lost, &why, clean));
            }
            InjectionPhase::Pending if self.is_reverted(spec) => {
                self.over(&name, over(InjectionPhase::Cleared, "reverted before it was begun", Some("it was never begun")));
            }
            InjectionPhase::Pending => self.begin(&name, spec),
        }
    }

    fn begin(&mut self, name: &str, spec: &InjectionSpec) {
        if !self.cords_read || self.renewed.is_none() {
            return;
        }
        if let Some(why) = self.must_stop(name, &spec.run.namespace) {
            return self.refuse(name, why);
        }
        let container = spec.container.as_deref().unwrap_or_default();
        let pid = match self.processes.of_container(container, &spec.pod.uid) {
            Ok(pid) => pid,
            Err(why) => return self.refuse(name, why),
        };
        let names = match self.ask_names(name, spec, pid) {
            None => return,
            Some(Ok(names)) => names,
            Some(Err(why)) => return self.refuse(name, why),
        };
        let local = Local { kubelet: kubelet(&self.node_addresses, pid), names };
        match order::of(spec, pid, &local) {
            Err(why) => self.refuse(name, why),
            Ok(order) => {
                tracing::info!(injection = name, pod = spec.pod.name, "beginning");
                let hold = Hold::new(spec, local);
                self.holds.insert(name.to_owned(), hold);
                self.spawner.hold(name, order);
            }
        }
    }

    /// What the names of an order stand for; `None` while that is being asked.
    fn ask_names(&mut self, name: &str, spec: &InjectionSpec, pid: i32) -> Option<Result<Answers, String>> {
        let wanted = order::names(spec);
        if wanted.is_empty() {
            return Some(Ok(Answers::new()));
        }
        let names = self.names.entry(name.to_owned()).or_insert_with(|| {
            let (told, injection) = (self.told.clone(), name.to_owned());
            Names::ask(pid, wanted, move |said| {
                // Nobody who hears is an agent that ends.
                let _ = told.send(News::Named { injection: injection.clone(), said });
            })
        });
        names.said.clone()
    }

    /// What an order says of a fault that is held: that it ends, whom it is about now, or where it is held now.
    fn follow_hold(&mut self, name: &str, spec: &InjectionSpec) {
        let is_reverted = self.is_reverted(spec);
        let answers = self.names.get(name).and_then(|names| names.said.clone()?.ok());
        let Some(hold) = self.holds.get_mut(name) else { return };
        if hold.between.is_some() {
            return self.between(name, spec);
        }
        if is_reverted {
            hold.let_go();
        }
        let Some(pipe) = &mut hold.pipe else { return };
        pipe.send();
        let names = answers.unwrap_or_else(|| hold.local.names.clone());
        if hold.aim == spec.aim && hold.local.names == names {
            return;
        }
        (hold.aim, hold.local.names) = (spec.aim.clone(), names);
        let line =
            order::fault(spec, &hold.local).and_then(|fault| serde_json::to_vec(&fault).map_err(|error| error.to_string()));
        match line {
            Ok(line) => {
                tracing::info!(injection = name, "aimed anew");
                if let Err(why) = pipe.tell(&line) {
                    self.end(name, why);
                }
            }
            Err(why) => tracing::error!(injection = name, why, "it cannot be aimed anew, and stays as it was"),
        }
    }

    /// No holder lives: the next container is waited for, as long as there may be one.
    fn between(&mut self, name: &str, spec: &InjectionSpec) {
        let is_reverted = self.is_reverted(spec);
        let Some(hold) = self.holds.get_mut(name) else { return };
        let gone = without_container();
        let left = hold.ends.saturating_duration_since(Instant::now());
        if is_reverted || left.is_zero() {
            let why = format!("ended while its container restarted{}", again(hold.restarts));
            return self.finish(name, InjectionPhase::Cleared, why, Some(gone));
        }
        if !self.processes.has_pod(&spec.pod.uid) {
            return self.finish(name, InjectionPhase::Lost, "its pod is gone".to_owned(), Some(gone));
        }
        if hold.between != Some(Between::Waits) || hold.container == spec.container {
            return;
        }
        let container = spec.container.as_deref().unwrap_or_default();
        // Not there yet, or not any more.
        let Ok(pid) = self.processes.of_container(container, &spec.pod.uid) else { return };
        hold.local.kubelet = kubelet(&self.node_addresses, pid);
        hold.container.clone_from(&spec.container);
        hold.aim.clone_from(&spec.aim);
        hold.between = None;
        hold.restarts += 1;
        // A holder refuses less than a millisecond.
        let rest = crate::api::Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
        let spec = InjectionSpec { hold: rest, ..spec.clone() };
        match order::of(&spec, pid, &hold.local) {
            Ok(order) => {
                tracing::info!(injection = name, container, "its container has restarted: held again");
                self.spawner.hold(name, order);
            }
            Err(why) => self.finish(name, InjectionPhase::Lost, why, Some(gone)),
        }
    }

    fn refuse(&mut self, name: &str, why: String) {
        self.over(
            name,
            InjectionStatus {
                phase: InjectionPhase::Refused,
                why: Some(why),
                ended: Some(Timestamp::now()),
                ..InjectionStatus::default()
            },
        );
    }

    /// The last of an order: remembered, so that a late look does not begin it again.
    fn over(&mut self, name: &str, status: InjectionStatus) {
        tracing::info!(injection = name, phase = ?status.phase, why = status.why, clean = status.clean, "over");
        for order in self.orders.values_mut().filter(|order| order.name_any() == name) {
            order.status = Some(status.clone());
        }
        self.statuses.write(name, status);
    }

    fn end(&mut self, name: &str, why: &str) {
        if let Some(hold) = self.holds.get_mut(name)
            && hold.cut.is_none()
        {
            tracing::warn!(injection = name, why, "ending before its time");
            hold.cut = Some(why.to_owned());
            hold.let_go();
            if hold.between.is_some() {
                self.finish(name, InjectionPhase::Lost, CONTAINER_GONE.to_owned(), Some(without_container()));
            }
        }
    }

    fn end_deleted(&mut self, name: &str) {
        self.end(name, "its order was deleted");
        if !self.holds.contains_key(name) {
            self.statuses.forget(name);
        }
    }

    fn end_all(&mut self, why: &str) {
        let names: Vec<String> = self.holds.keys().cloned().collect();
        for name in names {
            self.end(&name, why);
        }
    }

    fn hear(&mut self, name: &str, heard: Heard) {
        let is_reinjected = self.is_reinjected(name);
        let is_reverted = self.orders.values().any(|order| order.name_any() == name && self.is_reverted(&order.spec));
        let Some(hold) = self.holds.get_mut(name) else { return };
        match hold.hear(heard, is_reverted, is_reinjected) {
            After::Nothing => {}
            After::Write => {
                let status = hold.status.clone();
                self.statuses.write(name, status);
            }
            After::Cut(why) => self.end(name, &why),
            After::Over(phase, why, clean) => self.finish(name, phase, why, clean),
        }
    }

    fn is_reinjected(&self, name: &str) -> bool {
        let cut = self.holds.get(name).is_none_or(|hold| hold.cut.is_some());
        let mut orders = self.orders.values().filter(|order| order.name_any() == name);
        !cut && orders.any(|order| order.spec.on_restart == OnRestart::Reinject && !self.is_reverted(&order.spec))
    }

    fn finish(&mut self, name: &str, phase: InjectionPhase, why: String, clean: Option<Clean>) {
        let Some(hold) = self.holds.remove(name) else { return };
        let status = hold.last(phase, why, clean);
        self.over(name, status);
        if !self.orders.values().any(|order| order.name_any() == name) {
            self.statuses.forget(name);
        }
    }
}

/// What is known of an order that another agent process had begun: why it is over, and proof that nothing is left.
fn after_a_restart() -> (String, Option<&'static str>) {
    let left: Vec<String> = proc::orphans().into_iter().map(|(pid, _)| pid.to_string()).collect();
    if left.is_empty() {
        return (
            "the agent was started anew".to_owned(),
            Some("its holder died with its agent: none without an agent is on this node"),
        );
    }
    (format!("NOT CLEAN: the agent was started anew, and holders that a dead one left do not end: {}", left.join(", ")), None)
}

/// Whether it says that it was renewed, by its holder's clock, no longer ago than it lasts.
fn is_fresh(lease: &Lease, now: Timestamp) -> bool {
    let spec = lease.spec.as_ref();
    let lasts = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
    renewed.is_some_and(|renewed| now.duration_since(renewed.0).abs().as_secs() <= i64::from(lasts))
}

/// What a Lease says is to end. Each order says it too, a moment later, if that is not to be read.
fn let_go(lease: &Lease) -> HashSet<String> {
    let named = lease.annotations().get(ANNOTATION_LET_GO);
    named.and_then(|named| serde_json::from_str(named).ok()).unwrap_or_default()
}

/// From where the kubelet probes the pod of this process.
fn kubelet(node: &[IpAddr], pid: i32) -> Vec<IpAddr> {
    node.iter().copied().chain(proc::gateways(pid)).collect()
}
