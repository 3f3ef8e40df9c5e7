//! One signal to the target's first process, through a pidfd: never to another that has its number meanwhile.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::CapabilitySet;

use super::event::{Bite, Clean, End};
use super::frame::{Ground, Hold, Lost, Refusal};
use super::order::{ContainerKill, KillSignal};
use super::{privilege, sys};

pub struct KillHold {
    signal: KillSignal,
    target: OwnedFd,
    sent: Duration,
    gone: Option<Duration>,
}

pub fn check() -> Result<(), String> {
    privilege::need(CapabilitySet::KILL, "KILL", "signalling another user's process")
}

pub fn prepare(order: &ContainerKill, ground: &Ground<'_>) -> Result<KillHold, Refusal> {
    Ok(KillHold { signal: order.signal, target: ground.target.watch()?, sent: Duration::ZERO, gone: None })
}

impl Hold for KillHold {
    /// For a target of another user.
    fn keeps(&self) -> CapabilitySet {
        CapabilitySet::KILL
    }

    fn inject(&mut self) -> Result<String, Refusal> {
        let signal = match self.signal {
            KillSignal::Kill => Signal::KILL,
            KillSignal::Term => Signal::TERM,
            KillSignal::Int => Signal::INT,
            KillSignal::Quit => Signal::QUIT,
            KillSignal::Hup => Signal::HUP,
            KillSignal::Abrt => Signal::ABORT,
        };
        self.sent = sys::since_boot();
        pidfd_send_signal(&self.target, signal).map_err(|error| Refusal::new(format!("containerKill: {error}")))?;
        Ok(format!("sent SIG{} to the target's first process", format!("{:?}", self.signal).to_uppercase()))
    }

    fn turn(&mut self) -> Result<(), Lost> {
        Ok(())
    }

    fn target_gone(&mut self) -> Result<End, Lost> {
        self.gone = Some(sys::since_boot().saturating_sub(self.sent));
        Ok(End::Done)
    }

    /// A signal that was sent has not bitten yet: a process that is gone has been bitten.
    fn bite(&mut self) -> Bite {
        match self.gone {
            Some(after) => {
                let after_ms = after.as_secs_f64() * 1e3;
                Bite::new(true, format!("gone {after_ms:.1} ms after the signal"), [("gone_after_ms", after_ms)])
            }
            None => {
                let since_ms = sys::since_boot().saturating_sub(self.sent).as_secs_f64() * 1e3;
                Bite::new(false, format!("still there {since_ms:.0} ms after the signal"), [("waited_ms", since_ms)])
            }
        }
    }

    fn revert(&mut self) -> Clean {
        Clean { clean: true, says: "a signal leaves nothing to take back; the runtime starts the container again".into() }
    }
}
