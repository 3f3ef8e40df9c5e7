//! One task for each unfinished run: turn after turn, until it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::api::{Entry, FaultKind, GameDayRunStatus, Guardrail, People, RunPhase, Stop};
use crate::cluster::{self, ClusterWorld, Injections, Surroundings, read_replicas, record, slots};
use crate::engine::{AgentSeen, Guarded, Pulled, Run, Track};
use crate::probe::{Clock, Prober, ReadWorkload, Replicas, Sampler};
use crate::turn::{Loaded, Next, Trouble, Turn, World};

use super::desk::{Desk, SeenRun, lock};
use super::events::Told;

/// The pauses after a turn without an answer: soon at first, because something may have to be reverted, and
/// never longer than an abort may take.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_LONGEST: Duration = Duration::from_secs(2);
/// Turns one after the other without a pause: more means that its writes fail again and again.
const AT_ONCE_MAX: u32 = 8;
/// A run that has not touched anything waits so long for its first lists, answers and samples, so that its first
/// turn can decide. Without them it starts all the same, and says what it waits for.
const FIRST_LOOK: Duration = Duration::from_millis(500);

/// Starts the task of a run that has none.
pub fn begin(desk: &Arc<Desk>, seen: &Arc<SeenRun>, loaded: Loaded) {
    let Some(busy) = lock(&desk.busy).clone() else { return };
    let (desk, seen) = (Arc::clone(desk), Arc::clone(seen));
    tokio::spawn(async move {
        let mut loaded = Some(loaded);
        while let Some(at_hand) = loaded.take() {
            let going = {
                let (desk, seen) = (Arc::clone(&desk), Arc::clone(&seen));
                tokio::spawn(async move { go(&desk, &seen, at_hand).await })
            };
            let Err(error) = going.await else { break };
            // A bug of ours must not leave a fault in force: the run is taken up from its record.
            tracing::error!(run = seen.id.name, namespace = seen.id.namespace, %error, "a run's task broke; it is taken up again");
            loaded = load_again(&desk, &seen).await;
        }
        desk.left(&seen);
        drop(busy);
    });
}

/// The run as it is recorded, soon. `None`: it is gone, or not this process's any more.
async fn load_again(desk: &Desk, seen: &SeenRun) -> Option<Loaded> {
    while desk.leader.is_valid() && !*desk.stopping.borrow() {
        tokio::time::sleep(AGAIN_LONGEST).await;
        match record::load(&desk.client, &seen.id).await {
            Ok(loaded) => return loaded,
            Err(error) => {
                tracing::warn!(run = seen.id.name, namespace = seen.id.namespace, %error, "no answer; asked again soon")
            }
        }
    }
    None
}

async fn go(desk: &Arc<Desk>, seen: &Arc<SeenRun>, loaded: Loaded) {
    let mut stopping = desk.stopping.clone();
    let stop = async move {
        // An error means that the operator itself is gone.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let mut stop = std::pin::pin!(stop);
    let mut counted = Counted::new(desk, &loaded.run.status);
    let run = &loaded.run;
    let clock = desk.clock.not_before(newest(&run.status));
    let around = Around {
        desk: Arc::clone(desk),
        seen: Arc::clone(seen),
        told: Mutex::default(),
        samplers: Mutex::new(samplers(desk, seen, clock, run)),
        place: Mutex::default(),
        clock,
        run: run.clone(),
    };
    let world = ClusterWorld::start(&desk.client, &desk.leader, clock, run, &desk.inventory, around, &seen.changed);
    let mut looked = false;
    let mut turn = Turn::new(loaded);
    let mut again = AGAIN;
    let mut at_once = 0;
    loop {
        let began = Instant::now();
        let taken = turn.take(&world).await;
        desk.metrics.turn.observe(began.elapsed().as_secs_f64());
        counted.look(&turn.run().status);
        desk.guardrails.tell(turn.run());
        if turn.waits() {
            world.surroundings().waits(true);
        } else if !looked && turn.run().status.phase == RunPhase::Waiting {
            // Meanwhile its slot was taken; with its next turn it begins.
            looked = true;
            first_look(&world, turn.run(), &seen.changed).await;
        }
        world.ask_ahead(turn.run());
        let (pause, may_wake) = match taken {
            Ok(Next::Over) => {
                desk.guardrails.forget(&seen.id.uid);
                let names = desk.guardrails.with_slots_of(turn.run());
                if let Err(error) = slots::leave(&desk.client, &names, &seen.id.uid).await {
                    tracing::warn!(run = seen.id.name, namespace = seen.id.namespace, %error, "its slots are left to the sweep");
                }
                return;
            }
            Ok(Next::At(at)) => {
                let pause = Duration::try_from(at.duration_since(world.now())).unwrap_or(Duration::ZERO);
                at_once = if pause == Duration::ZERO { at_once + 1 } else { 0 };
                if at_once > AT_ONCE_MAX {
                    tracing::warn!(
                        run = seen.id.name,
                        namespace = seen.id.namespace,
                        "its record is not written again and again; slower now"
                    );
                    let pause = again;
                    again = (again * 2).min(AGAIN_LONGEST);
                    (pause, false)
                } else {
                    again = AGAIN;
                    (pause, true)
                }
            }
            Err(Trouble::NotLeading) => return,
            Err(Trouble::NoAnswer(error)) => {
                tracing::warn!(run = seen.id.name, namespace = seen.id.namespace, error, "no answer; another turn soon");
                let pause = again;
                again = (again * 2).min(AGAIN_LONGEST);
                (pause, false)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = seen.changed.notified(), if may_wake => {}
            () = &mut stop => {
                if let Err(error) = turn.flush(&world).await {
                    tracing::warn!(run = seen.id.name, namespace = seen.id.namespace, %error, "the last of the record was not written");
                }
                return;
            }
        }
    }
}

/// The newest time in a run's record.
fn newest(status: &GameDayRunStatus) -> jiff::Timestamp {
    let phases = status.experiments.iter().filter_map(|experiment| experiment.since);
    let samples = status.probes.iter().filter_map(|probe| probe.last);
    let entries = status.record.iter().map(|entry| entry.at);
    phases.chain(samples).chain(entries).max().unwrap_or(jiff::Timestamp::MIN)
}

/// Begins to watch the steady state. Fewer than there are probes, where one cannot be: then the run is blind,
/// and says so.
fn samplers(desk: &Desk, seen: &SeenRun, clock: cluster::Clock, run: &Run) -> Vec<Sampler> {
    let Ok(plan) = &run.plan else { return Vec::new() };
    let clock: Clock = Arc::new(move || clock.now());
    let (client, namespace) = (desk.client.clone(), run.id.namespace.clone());
    // Read anew each time: a watch that is broken would go on showing what it saw last.
    let read: ReadWorkload = Arc::new(move |workload| {
        let (client, namespace) = (client.clone(), namespace.clone());
        async move {
            let found = read_replicas(&client, &namespace, &workload).await.map_err(|error| error.to_string())?;
            Ok(found.map(|(asked_for, ready)| Replicas { asked_for, ready }))
        }
        .boxed()
    });
    let mut samplers = Vec::new();
    for probe in &plan.steady_state {
        let recorded = run.status.probes.iter().find(|recorded| recorded.name == probe.name);
        match Prober::new(probe, &read) {
            Ok(prober) => samplers.push(Sampler::start(prober, recorded, Arc::clone(&clock), Arc::clone(&seen.changed))),
            Err(error) => {
                tracing::error!(
                    run = run.id.name,
                    namespace = run.id.namespace,
                    probe = probe.name,
                    error,
                    "this cannot be probed"
                );
            }
        }
    }
    samplers
}

async fn first_look(world: &ClusterWorld<Around>, run: &Run, changed: &Notify) {
    let looking = async {
        while !(world.is_ready(run) && world.surroundings().have_all_seen()) {
            changed.notified().await;
        }
    };
    // Without all answers the run begins all the same.
    let _ = tokio::time::timeout(FIRST_LOOK, looking).await;
}

/// What is around a run.
struct Around {
    desk: Arc<Desk>,
    seen: Arc<SeenRun>,
    told: Mutex<Told>,
    /// In the order of the spec. None while the run waits for others.
    samplers: Mutex<Vec<Sampler>>,
    /// What is in force when this process begins to lead needs none.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    clock: cluster::Clock,
    /// As it was taken up.
    run: Run,
}

impl Around {
    /// Whether each probe has seen something.
    fn have_all_seen(&self) -> bool {
        lock(&self.samplers).iter().all(|sampler| sampler.track().last_seen().is_some())
    }
}

impl Surroundings for Around {
    fn is_deleted(&self) -> bool {
        self.seen.is_deleted()
    }

    fn stop(&self) -> Option<Stop> {
        self.seen.now().stop
    }

    fn cord(&self) -> Option<Pulled> {
        self.desk.cord(&self.seen.id.namespace)
    }

    fn probes(&self) -> Vec<Track> {
        lock(&self.samplers).iter().map(Sampler::track).collect()
    }

    fn injections(&self) -> Option<Injections> {
        self.desk.injections(&self.seen.id.uid)
    }

    fn agents_namespace(&self) -> &str {
        &self.desk.agents.namespace
    }

    fn agents(&self) -> BTreeMap<String, AgentSeen> {
        self.desk.agents.seen()
    }

    fn need(&self, nodes: &BTreeMap<String, BTreeSet<FaultKind>>) {
        // An agent that stands there already is seen at once.
        if self.desk.agents.need(nodes) {
            self.desk.news();
        }
    }

    fn guarded(&self) -> Guarded {
        self.desk.guardrails.guarded()
    }

    fn people(&self) -> People {
        self.seen.now().people
    }

    fn boards(&self) -> Vec<Guardrail> {
        self.desk.guardrails.all()
    }

    fn place(&self) -> bool {
        let mut place = lock(&self.place);
        if place.is_none() {
            *place = Arc::clone(&self.desk.places).try_acquire_owned().ok();
        }
        place.is_some()
    }

    fn waits(&self, waits: bool) {
        let mut samplers = lock(&self.samplers);
        if waits {
            samplers.clear();
            *lock(&self.place) = None;
        } else if samplers.is_empty() {
            *samplers = self::samplers(&self.desk, &self.seen, self.clock, &self.run);
        }
    }

    fn created(&self) -> jiff::Timestamp {
        self.seen.created
    }

    fn claim(&self, run: &Run, before: &GameDayRunStatus, now: jiff::Timestamp) -> bool {
        self.desk.guardrails.claim(run, before, &self.people().approvals, now)
    }

    async fn until_over(&self, order: &str) -> bool {
        self.desk.until_over(&self.seen.id.uid, order).await
    }

    fn tell(&self, run: &Run, entries: &[Entry]) {
        let regarding = self.seen.owner.as_ref().unwrap_or(&self.seen.itself);
        let mut told = lock(&self.told);
        for entry in entries {
            tracing::info!(
                run = run.id.name,
                namespace = run.id.namespace,
                experiment = entry.experiment,
                target = entry.target,
                kind = ?entry.kind,
                "{}",
                entry.text
            );
            self.desk.events.tell(entry, run.status.verdict, regarding, &self.seen.itself, &mut told);
        }
    }
}

/// A run's part of the metrics, taken out again when its task ends.
struct Counted {
    desk: Arc<Desk>,
    in_force: i64,
    samples: [i64; 3],
    finished: bool,
}

impl Counted {
    fn new(desk: &Arc<Desk>, status: &GameDayRunStatus) -> Self {
        desk.metrics.runs_active.inc();
        let finished = status.phase == RunPhase::Finished;
        Counted { desk: Arc::clone(desk), in_force: 0, samples: sample_counts(status), finished }
    }

    fn look(&mut self, status: &GameDayRunStatus) {
        let metrics = &self.desk.metrics;
        let targets = status.experiments.iter().flat_map(|experiment| &experiment.targets);
        let in_force = i64::try_from(targets.filter(|target| target.clean.is_none()).count()).unwrap_or(i64::MAX);
        metrics.faults_in_force.inc_by(in_force - self.in_force);
        self.in_force = in_force;
        let now = sample_counts(status);
        for (result, (now, before)) in ["good", "bad", "blind"].into_iter().zip(now.into_iter().zip(self.samples)) {
            metrics.samples(result, u64::try_from(now - before).unwrap_or(0));
        }
        self.samples = now;
        if status.phase == RunPhase::Finished && !self.finished {
            self.finished = true;
            metrics.run_finished(&status.verdict.map_or("None".to_owned(), |verdict| verdict.to_string()));
            for abort in status.experiments.iter().filter_map(|experiment| experiment.time_to_abort) {
                metrics.abort.observe(abort.as_std().as_secs_f64());
            }
        }
    }
}

/// Good, bad and blind samples of all probes.
fn sample_counts(status: &GameDayRunStatus) -> [i64; 3] {
    status.probes.iter().fold([0; 3], |[good, bad, blind], probe| {
        [good + probe.samples - probe.bad - probe.blind, bad + probe.bad, blind + probe.blind]
    })
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.desk.metrics.runs_active.dec();
        self.desk.metrics.faults_in_force.dec_by(self.in_force);
    }
}
