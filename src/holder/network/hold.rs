//! A network fault in the frame of every holder.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::thread::{CapabilitySet, LinkNameSpaceType, move_into_link_name_space};

use crate::holder::event::{Bite, Clean};
use crate::holder::frame::{self, Ground, Hold, Lost};
use crate::holder::order::Fault;
use crate::holder::sys;

use super::{Engine, NetworkOrder, left_over, refuse_host_network};

pub struct NetworkHold {
    order: NetworkOrder,
    engine: Option<Engine>,
    due: Option<Duration>,
}

/// Moves this process into the target's network.
///
/// # Errors
/// It is the node's own, cannot be entered, or the order cannot be done.
pub fn prepare(order: &NetworkOrder, ground: &Ground<'_>) -> Result<NetworkHold, frame::Refusal> {
    let refuse = |error: std::io::Error| {
        frame::Refusal::new(format!(
            "network: the target's network cannot be entered: {error}; it needs SYS_PTRACE and SYS_ADMIN"
        ))
    };
    let namespace = File::open(format!("/proc/{}/ns/net", ground.target.pid)).map_err(refuse)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| refuse(error.into()))?;
    refuse_host_network().map_err(|refusal| frame::Refusal::new(refusal.to_string()))?;
    Ok(NetworkHold { order: order.clone(), engine: None, due: None })
}

impl Hold for NetworkHold {
    fn injects_with(&self) -> CapabilitySet {
        CapabilitySet::NET_RAW | CapabilitySet::SYS_NICE
    }

    fn keeps(&self) -> CapabilitySet {
        CapabilitySet::NET_ADMIN
    }

    fn inject(&mut self) -> Result<String, frame::Refusal> {
        let engine = Engine::open(&self.order).map_err(|refusal| frame::Refusal::new(refusal.to_string()))?;
        let says = if engine.is_real_time() { "ahead of other processes" } else { "not ahead of other processes" };
        self.engine = Some(engine);
        self.due = Some(sys::since_boot());
        Ok(format!("packets pass a queue, {says}"))
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.engine.as_ref().map(Engine::fds).unwrap_or_default()
    }

    fn due(&self) -> Option<Duration> {
        self.due
    }

    fn turn(&mut self) -> Result<(), Lost> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let next = engine.turn().map_err(|failure| Lost::new(failure.to_string()))?;
        self.due = next.map(|next| sys::since_boot() + next);
        Ok(())
    }

    fn revise(&mut self, fault: Fault) -> Result<(), frame::Refusal> {
        let (Some(engine), Fault::Network(order)) = (&mut self.engine, fault) else {
            return Err(frame::Refusal::new("only whom a network fault hits can be changed while it is held"));
        };
        engine.aim_at(order.aim).map_err(|failure| frame::Refusal::new(failure.to_string()))
    }

    fn bite(&mut self) -> Bite {
        match self.engine.as_mut().map(|engine| engine.bite(true)) {
            None => Bite::new(false, "not in force", []),
            Some(Err(failure)) => Bite::new(false, format!("not measured: {failure}"), []),
            Some(Ok(bite)) => {
                let (p50, p99) = bite.held_us.map_or((0.0, 0.0), |held| (held.p50 / 1_000.0, held.p99 / 1_000.0));
                let mut says = format!("{} of {} packets hit", bite.hit, bite.seen);
                if bite.delayed > 0 {
                    says.push_str(&format!(", held p50 {p50:.2} ms, p99 {p99:.2} ms"));
                }
                for (count, what) in [
                    (bite.lost, "lost"),
                    (bite.duplicated, "twice"),
                    (bite.corrupted, "corrupted"),
                    (bite.reset, "connections reset"),
                ] {
                    if count > 0 {
                        says.push_str(&format!(", {count} {what}"));
                    }
                }
                let figures = [
                    ("seen", bite.seen as f64),
                    ("hit", bite.hit as f64),
                    ("delayed", bite.delayed as f64),
                    ("lost", bite.lost as f64),
                    ("reset", bite.reset as f64),
                    ("held_p50_ms", p50),
                    ("held_p99_ms", p99),
                ];
                Bite::new(bite.bit(), says, figures)
            }
        }
    }

    fn revert(&mut self) -> Clean {
        let released = self.engine.as_mut().map(Engine::release);
        self.engine = None;
        self.due = None;
        match (released, left_over()) {
            (Some(Err(failure)), _) | (_, Err(failure)) => Clean { clean: false, says: failure.to_string() },
            (_, Ok(left)) if left.is_empty() => {
                Clean { clean: true, says: "no table, no device of ours in the pod's network".into() }
            }
            (_, Ok(left)) => Clean { clean: false, says: format!("still there: {}", left.join(", ")) },
        }
    }
}
