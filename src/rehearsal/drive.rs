//! Virtual time: polls the pretended operators in the order of their times, and nothing waits in between.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use jiff::Timestamp;

use crate::api::{Duration, RunPhase};

use super::stage::Stage;
use super::world::{Pretend, operate};

/// Turns at one moment. A step that leads to another at once does so a handful of times: phases follow each
/// other within a step, and each action's outcome is news once.
const TURNS_AT_ONCE: u64 = 64;
/// Turns of one virtual minute, beside those that samples bring.
const TURNS_A_MINUTE: u64 = 600;
/// A sweep comes round this often in production, and is late by as much.
const SWEEP: Duration = Duration::from_secs(30);

/// Runs until nobody is at work any more, or until `limit` has passed. `told` gets the stage now and then, to
/// pass on what was told. Gives the virtual time that passed.
pub fn drive(stage: &Rc<RefCell<Stage>>, limit: Duration, told: &mut dyn FnMut(&mut Stage)) -> Duration {
    let mut operators: Vec<Option<Pin<Box<dyn Future<Output = ()>>>>> = Vec::new();
    let started = stage.borrow().now();
    let samples_a_minute = samples_a_minute(&stage.borrow());
    let mut meter = Meter { at: started, turns_at: 0, minute: 0, turns_minute: 0 };
    loop {
        let now = {
            let mut stage = stage.borrow_mut();
            if !stage.is_manned() || stage.waits_for_cord() {
                break;
            }
            if stage.now() > started + limit.as_signed() {
                let now = stage.now();
                let phase = stage.last.status.phase;
                stage.witness.violated(now, "P8", format!("still {phase:?} after {limit}"));
                break;
            }
            stage.now()
        };
        if !meter.is_calm(&mut stage.borrow_mut(), started, now, samples_a_minute) {
            break;
        }
        let start = stage.borrow().starts.iter().copied().min();
        let poll = stage.borrow_mut().next_poll();
        let event = stage.borrow().next_event();
        let due = [start, poll.map(|(_, at)| at)].into_iter().flatten().min();
        let Some(due) = due else {
            stage.borrow_mut().witness.violated(now, "P8", "an operator waits for nothing".to_owned());
            break;
        };
        if let Some(event) = event.filter(|event| *event < due) {
            stage.borrow_mut().advance_to(event);
        } else {
            stage.borrow_mut().advance_to(due);
            if start == Some(due) {
                let me = {
                    let mut stage = stage.borrow_mut();
                    let place = stage.starts.iter().position(|at| *at == due);
                    if let Some(place) = place {
                        stage.starts.remove(place);
                    }
                    stage.add_operator()
                };
                operators.push(Some(Box::pin(operate(Pretend::new(Rc::clone(stage), me)))));
            } else if let Some((me, _)) = poll {
                poll_operator(stage, &mut operators[me], me);
            }
        }
        told(&mut stage.borrow_mut());
    }
    drop(operators);
    let lasted = Duration::between(started, stage.borrow().now());
    clean_up(stage);
    told(&mut stage.borrow_mut());
    lasted
}

fn poll_operator(stage: &Rc<RefCell<Stage>>, operator: &mut Option<Pin<Box<dyn Future<Output = ()>>>>, me: usize) {
    stage.borrow_mut().begin_poll(me);
    let mut context = Context::from_waker(Waker::noop());
    let Some(future) = operator else { return };
    let is_over = future.as_mut().poll(&mut context).is_ready();
    if is_over {
        stage.borrow_mut().retire(me);
    }
    // Whoever is lost takes everything that it held in memory along.
    if is_over || stage.borrow().is_lost(me) {
        *operator = None;
    }
}

/// Counts turns, so that an operator that runs in circles is found.
struct Meter {
    at: Timestamp,
    turns_at: u64,
    minute: u64,
    turns_minute: u64,
}

impl Meter {
    fn is_calm(&mut self, stage: &mut Stage, started: Timestamp, now: Timestamp, samples_a_minute: u64) -> bool {
        if now != self.at {
            (self.at, self.turns_at) = (now, stage.turns);
        } else if stage.turns - self.turns_at > TURNS_AT_ONCE {
            stage.witness.violated(now, "no livelock", format!("more than {TURNS_AT_ONCE} turns at one moment"));
            return false;
        }
        let minute = Duration::between(started, now).as_millis() / 60_000;
        if minute != self.minute {
            (self.minute, self.turns_minute) = (minute, stage.turns);
        }
        let limit = TURNS_A_MINUTE + samples_a_minute;
        if stage.turns - self.turns_minute > limit {
            stage.witness.violated(now, "no livelock", format!("more than {limit} turns in a minute"));
            return false;
        }
        true
    }
}

/// Two operators may each take a turn at each sample.
fn samples_a_minute(stage: &Stage) -> u64 {
    let probes = &stage.last.spec.game_day.steady_state;
    2 * probes.iter().map(|probe| 60_000 / probe.every.as_millis().max(1) + 1).sum::<u64>()
}

/// What production's sweep finds after the run, and whether the cluster is as it was.
fn clean_up(stage: &Rc<RefCell<Stage>>) {
    let mut stage = stage.borrow_mut();
    let is_over = stage.is_deleted() || stage.last.status.phase == RunPhase::Finished;
    let swept = if is_over {
        let later = stage.now() + SWEEP.as_signed();
        stage.advance_to(later);
        stage.sweep()
    } else {
        Vec::new()
    };
    if !swept.is_empty() {
        stage.tell_misfortune(format!("the sweep brings back {}", swept.join(", ")));
    }
    stage.conclude(&swept);
}
