//! A network fault as one hold among others: the engine in a thread of its own, which is the only one of this process
//! inside the target's network namespace.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rustix::thread::{CapabilitySet, ThreadNameSpaceType, move_into_thread_name_spaces};

use super::bite::Bite;
use super::order::{Effect, NetworkOrder};
use super::{Abilities, Failure, left_over, open};
use crate::api::FaultPart;
use crate::holder::event::{self, Clean};
use crate::holder::frame::{Ground, Hold, Lost, Refusal};
use crate::holder::mechanism::Parts;
use crate::holder::order::Fault;
use crate::holder::privilege;

pub struct NetworkHold {
    order: NetworkOrder,
    /// The target's process, for its network namespace.
    target: Option<OwnedFd>,
    engine: Option<Held>,
    now: Arc<Mutex<Bite>>,
    told: Bite,
}

/// The engine's thread.
struct Held {
    /// Closing it ends the engine.
    stop: PipeWriter,
    updates: PipeWriter,
    /// Closed by the end of the thread, whatever ended it.
    ended: PipeReader,
    thread: JoinHandle<Ended>,
}

/// What the engine did, and what was left when it was gone.
struct Ended {
    whole: Result<Bite, Failure>,
    left: Result<Vec<String>, Failure>,
}

/// Whether this kernel and these capabilities can hold one, and, if so, what not every kernel can do of it.
pub fn checks() -> (Result<(), String>, Parts) {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    let able = privilege::need(needed, "SYS_ADMIN and NET_ADMIN", "a network fault")
        .and_then(|()| super::abilities().map_err(|refusal| refusal.to_string()));
    match able {
        Err(why) => (Err(why), Vec::new()),
        Ok(Abilities { no_egress_delay, no_partition, .. }) => {
            let able = |not: Option<String>| not.map_or(Ok(()), Err);
            (Ok(()), vec![(FaultPart::Egress, able(no_egress_delay)), (FaultPart::Partition, able(no_partition))])
        }
    }
}

/// # Errors
/// The order cannot be done on any kernel.
pub fn prepare(order: &NetworkOrder, ground: &Ground<'_>) -> Result<NetworkHold, Refusal> {
    let order = NetworkOrder { seed: ground.seed, ..order.clone() };
    order.check().map_err(|refusal| Refusal::new(refusal.to_string()))?;
    let target = Some(ground.target.watch()?);
    Ok(NetworkHold { order, target, engine: None, now: Arc::default(), told: Bite::default() })
}

impl Hold for NetworkHold {
    /// To enter the namespace; to make the rules; for second copies; to be on time. All but NET_ADMIN are gone before
    /// the first packet.
    fn injects_with(&self) -> CapabilitySet {
        CapabilitySet::SYS_ADMIN
            | CapabilitySet::SYS_PTRACE
            | CapabilitySet::NET_ADMIN
            | CapabilitySet::NET_RAW
            | CapabilitySet::SYS_NICE
    }

    fn inject(&mut self) -> Result<String, Refusal> {
        let trouble = |error: std::io::Error| Refusal::new(format!("network: {error}"));
        let (stopped, stop) = pipe().map_err(trouble)?;
        let (changed, updates) = pipe().map_err(trouble)?;
        let (ended, ends) = pipe().map_err(trouble)?;
        let (opened, is_open) = mpsc::channel();
        let (order, now) = (self.order.clone(), Arc::clone(&self.now));
        let target = self.target.take().ok_or_else(|| Refusal::new("network: injected twice"))?;
        let life = move || {
            let _ends = ends;
            let entered = enter(&target).and_then(|()| open(&order).map_err(|refusal| Refusal::new(refusal.to_string())));
            let mut engine = match entered.and_then(|engine| privilege::keep_only(CapabilitySet::NET_ADMIN).map(|()| engine)) {
                Ok(engine) => engine,
                Err(refusal) => {
                    // Who asked is waiting, or gone with the process.
                    let _ = opened.send(Err(refusal));
                    return Ended { whole: Ok(Bite::default()), left: left_over() };
                }
            };
            let _ = opened.send(Ok(engine.is_real_time()));
            let keep = |bite: Bite| *now.lock().unwrap_or_else(PoisonError::into_inner) = bite;
            let whole = engine.run(keep, stopped.as_fd(), Some(changed.as_fd()));
            drop(engine);
            Ended { whole, left: left_over() }
        };
        let thread = std::thread::Builder::new().name("network".into()).spawn(life).map_err(trouble)?;
        self.engine = Some(Held { stop, updates, ended, thread });
        let real_time = is_open.recv().map_err(|_| Refusal::new("network: the engine ended before it was open"))??;
        let exact = if real_time { "" } else { ", without real-time scheduling" };
        Ok(format!("in force{exact}"))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.engine.iter().map(|held| held.ended.as_fd()).collect()
    }

    fn turn(&mut self) -> Result<(), Lost> {
        match &self.engine {
            Some(held) if held.thread.is_finished() => Err(Lost::new("the network engine ended")),
            Some(_) | None => Ok(()),
        }
    }

    fn revise(&mut self, fault: Fault) -> Result<(), Refusal> {
        let Fault::Network(revised) = fault else { return Err(Refusal::new("a network fault stays one")) };
        if (NetworkOrder { aim: self.order.aim.clone(), seed: self.order.seed, ..revised.clone() }) != self.order {
            return Err(Refusal::new("only whom a network fault hits can be changed while it is held"));
        }
        let held = self.engine.as_mut().ok_or_else(|| Refusal::new("nothing is in force"))?;
        let mut line = serde_json::to_vec(&revised.aim).map_err(|error| Refusal::new(error.to_string()))?;
        line.push(b'\n');
        held.updates.write_all(&line).map_err(|error| Refusal::new(error.to_string()))?;
        self.order.aim = revised.aim;
        Ok(())
    }

    fn bite(&mut self) -> event::Bite {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said = say(&self.order, &self.told, &now);
        self.told = now;
        said
    }

    fn revert(&mut self) -> Clean {
        let Some(Held { stop, updates, ended, thread }) = self.engine.take() else {
            return Clean { clean: true, says: "nothing was in force".into() };
        };
        drop((stop, updates));
        let joined = thread.join();
        drop(ended);
        let Ok(Ended { whole, left }) = joined else {
            return Clean { clean: false, says: "the network engine panicked; what it held ends with this process".into() };
        };
        let failed = match whole {
            Ok(whole) => {
                *self.now.lock().unwrap_or_else(PoisonError::into_inner) = whole;
                String::new()
            }
            Err(failure) => format!("; its engine had ended: {failure}"),
        };
        match left {
            Ok(left) if left.is_empty() => {
                Clean { clean: true, says: format!("read back: no table and no device of ours{failed}") }
            }
            Ok(left) => Clean { clean: false, says: format!("left: {}", left.join(", ")) },
            Err(failure) => Clean { clean: false, says: format!("what is left could not be read back: {failure}") },
        }
    }
}

fn enter(target: &OwnedFd) -> Result<(), Refusal> {
    move_into_thread_name_spaces(target.as_fd(), ThreadNameSpaceType::NETWORK)
        .map_err(|error| Refusal::new(format!("network: the target's network namespace cannot be entered: {error}")))
}

/// Whether anything happened since the last time, in figures, and in words what happened in all.
fn say(order: &NetworkOrder, before: &Bite, now: &Bite) -> event::Bite {
    let since = |count: fn(&Bite) -> u64| count(now).saturating_sub(count(before));
    let (seen, hit, reset) = (since(|bite| bite.seen), since(|bite| bite.hit), since(|bite| bite.reset));
    let bit = hit > 0 || reset > 0;
    let late = now.late_us.map_or(0.0, |late| late.p99);
    let says = if bit { in_all(order, now) } else { format!("no packet matched; {seen} seen") };
    event::Bite::new(
        bit,
        says,
        [
            ("seen", seen as f64),
            ("hit", hit as f64),
            ("delayed", since(|bite| bite.delayed) as f64),
            ("lost", since(|bite| bite.lost) as f64),
            ("reset", reset as f64),
            ("failed", since(|bite| bite.failed) as f64),
            ("held_p50_us", now.held_us.map_or(0.0, |held| held.p50)),
            ("late_p99_us", late),
        ],
    )
}

fn in_all(order: &NetworkOrder, now: &Bite) -> String {
    let hit = format!("{} of {} packets", now.hit, now.seen);
    if order.effect == Effect::Partition {
        return format!("{hit} dropped, {} connections reset", now.reset);
    }
    let done = [
        (now.delayed, "delayed"),
        (now.waiting, "waiting"),
        (now.lost, "lost"),
        (now.overflowed, "dropped for the rate"),
        (now.duplicated, "duplicated"),
        (now.corrupted, "corrupted"),
        (now.reordered, "let go out of order"),
        (now.failed, "failed"),
    ];
    let done: Vec<String> =
        done.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if done.is_empty() { format!("{hit} hit") } else { format!("{hit} hit: {}", done.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_said_of_the_whole_and_without_zeros() {
        let order: NetworkOrder = serde_json::from_str(ORDER).unwrap();
        let before = Bite { seen: 90, hit: 30, delayed: 29, waiting: 1, ..Bite::default() };
        let now = Bite { seen: 100, hit: 40, delayed: 36, waiting: 3, lost: 1, failed: 2, ..Bite::default() };
        assert_eq!(say(&order, &before, &now).says, "40 of 100 packets hit: 36 delayed, 3 waiting, 1 lost, 2 failed");
        let quiet = say(&order, &now, &Bite { seen: 110, ..now.clone() });
        assert_eq!((quiet.bit, quiet.says.as_str()), (false, "no packet matched; 10 seen"));
        let partition = NetworkOrder { effect: Effect::Partition, ..order };
        assert_eq!(say(&partition, &before, &now).says, "40 of 100 packets dropped, 0 connections reset");
    }

    const ORDER: &str = r#"{"direction": "In", "effect": {"shape": {}}, "to": [{}]}"#;
}
