//! One hold: what its holder says becomes its status, and what is to be done next. What its order says is heeded by the
//! agent.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::api::{Aim, InjectionPhase, InjectionSpec, InjectionStatus};
use crate::holder::{Bite, Clean, Event};

use super::order::Local;
use super::pipe::Pipe;
use super::spawner::{Heard, Started};

pub const CONTAINER_GONE: &str = "its container restarts";
/// A holder that was told to end and has not is killed after this: the kernel takes back what it held, without a last
/// word. A revert takes milliseconds; where what was delayed finds no room, 0.6 s; of much memory, page by page, longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// A measurement among many is written this often at most.
const REFRESH: Duration = Duration::from_secs(10);

pub struct Hold {
    /// Of the run.
    pub namespace: String,
    /// Closing it is the order to end.
    pub pipe: Option<Pipe>,
    /// Of the holder that lives.
    process: Option<OwnedFd>,
    /// When it was told to end.
    let_go: Option<Instant>,
    /// Why it was ended before its time.
    pub cut: Option<String>,
    pub status: InjectionStatus,
    /// By its order, whatever restarts.
    pub ends: Instant,
    /// What it was told last.
    pub container: Option<String>,
    pub aim: Option<Aim>,
    pub local: Local,
    /// Its container is gone.
    pub between: Option<Between>,
    pub restarts: u32,
    written: Instant,
}

/// Between two containers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Between {
    /// The holder has said its last word, and is still a process.
    HolderEnds,
    /// No holder is there, and the next container is waited for.
    Waits,
}

/// What is to be done about what was heard.
#[derive(Debug, PartialEq)]
pub enum After {
    Nothing,
    /// Its status is to be written.
    Write,
    /// It is to end before its time, and why.
    Cut(String),
    Over(InjectionPhase, String, Option<Clean>),
}

impl Hold {
    pub fn new(spec: &InjectionSpec, local: Local) -> Self {
        Hold {
            namespace: spec.run.namespace.clone(),
            pipe: None,
            process: None,
            let_go: None,
            cut: None,
            status: InjectionStatus { why: Some("a holder starts".to_owned()), ..InjectionStatus::default() },
            ends: Instant::now() + spec.hold.as_std(),
            container: spec.container.clone(),
            aim: spec.aim.clone(),
            local,
            between: None,
            restarts: 0,
            written: Instant::now(),
        }
    }

    /// `is_reverted`: it is to end. `is_reinjected`: it goes on in the next container when this one is gone.
    pub fn hear(&mut self, heard: Heard, is_reverted: bool, is_reinjected: bool) -> After {
        match heard {
            Heard::Started(Ok(Started { stdin, process })) => {
                (self.process, self.let_go) = (Some(process), None);
                match Pipe::new(stdin) {
                    Ok(pipe) => {
                        self.pipe = Some(pipe);
                        if self.cut.is_some() || is_reverted {
                            self.let_go();
                        }
                        After::Nothing
                    }
                    // It ends now, and says so.
                    Err(error) => After::Cut(format!("its pipe: {error}")),
                }
            }
            Heard::Started(Err(why)) => self.refused(why),
            Heard::Said(event) => self.hear_event(event, is_reinjected),
            Heard::Ended(_) if self.between.is_some() => {
                self.between = Some(Between::Waits);
                After::Nothing
            }
            // Without a last word: killed.
            Heard::Ended(left) => {
                let clean = match &left[..] {
                    [] => Clean { clean: true, says: "the holder is gone, and the kernel took back what it held".to_owned() },
                    left => Clean { clean: false, says: format!("the holder is gone, and these processes do not end: {left:?}") },
                };
                After::Over(InjectionPhase::Lost, "the holder was killed".to_owned(), Some(clean))
            }
        }
    }

    /// Tells it to end.
    pub fn let_go(&mut self) {
        self.pipe = None;
        self.let_go.get_or_insert_with(Instant::now);
    }

    /// Ends a holder that does not end when it is told to: stopped, or waiting for what never comes.
    pub fn kill_if_stuck(&mut self, name: &str) {
        if self.let_go.is_none_or(|since| since.elapsed() < PATIENCE) {
            return;
        }
        let Some(process) = self.process.take() else { return };
        match pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) => tracing::warn!(injection = name, "killed its holder, which did not end when it was told to"),
            // It has just ended.
            Err(Errno::SRCH) => {}
            Err(error) => {
                tracing::error!(injection = name, %error, "its holder, which did not end when it was told to, cannot be killed");
                self.process = Some(process);
            }
        }
    }

    fn hear_event(&mut self, event: Event, is_reinjected: bool) -> After {
        match event {
            Event::Started(started) => {
                self.status.phase = InjectionPhase::Holding;
                self.status.began.get_or_insert_with(Timestamp::now);
                self.status.why = Some(format!("{}{}", started.says, again(self.restarts)));
                After::Write
            }
            Event::Bite(Bite { bit, says, figures: _ }) => {
                let first = bit && self.status.bite.is_none();
                if bit {
                    self.status.bite = Some(format!("{says}{}", again(self.restarts)));
                } else {
                    self.status.why = Some(says);
                }
                if !first && self.written.elapsed() < REFRESH {
                    return After::Nothing;
                }
                self.written = Instant::now();
                After::Write
            }
            Event::Refused { why } => self.refused(why),
            Event::Cleared { end, clean } => After::Over(InjectionPhase::Cleared, format!("ended: {end:?}"), Some(clean)),
            Event::Lost { clean, target_gone: true, .. } if clean.clean && is_reinjected => {
                self.let_go();
                self.between = Some(Between::HolderEnds);
                self.status.phase = InjectionPhase::Pending;
                self.status.why = Some(CONTAINER_GONE.to_owned());
                After::Write
            }
            Event::Lost { why, clean, target_gone: _ } => After::Over(InjectionPhase::Lost, why, Some(clean)),
        }
    }

    fn refused(&self, why: String) -> After {
        if self.restarts == 0 {
            return After::Over(InjectionPhase::Refused, why, None);
        }
        // It was in force before, in another container.
        let clean = Clean { clean: true, says: "its container is gone, and nothing was done to the next".to_owned() };
        After::Over(InjectionPhase::Lost, format!("not held again after a restart: {why}"), Some(clean))
    }

    /// Its last status.
    pub fn last(self, phase: InjectionPhase, why: String, clean: Option<Clean>) -> InjectionStatus {
        let Hold { cut, mut status, .. } = self;
        (status.phase, status.why) = match (phase, cut) {
            (InjectionPhase::Cleared, Some(cut)) => (InjectionPhase::Lost, Some(cut)),
            (phase, Some(cut)) => (phase, Some(format!("{why}; {cut}"))),
            (phase, None) => (phase, Some(why)),
        };
        match clean {
            Some(Clean { clean: true, says }) => status.clean = Some(says),
            Some(Clean { clean: false, says }) => status.why = Some(format!("NOT CLEAN: {says}")),
            None => {}
        }
        status.ended = Some(Timestamp::now());
        status
    }
}

/// What is known of a fault whose container is gone.
pub fn without_container() -> Clean {
    Clean { clean: true, says: "its container is gone, and the holder with it".to_owned() }
}

/// The end of a sentence about what was held more than once.
pub fn again(restarts: u32) -> String {
    match restarts {
        0 => String::new(),
        1 => ", again after its container restarted".to_owned(),
        more => format!(", again after its container restarted {more} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::{self, End};

    fn hold() -> Hold {
        let spec = serde_json::json!({
            "run": {"namespace": "shop", "name": "run", "uid": "1"},
            "experiment": "one",
            "node": "n",
            "pod": {"namespace": "shop", "name": "pod", "uid": "2"},
            "container": "containerd://3",
            "fault": {"cpu": {"percent": 10}},
            "hold": "10s",
        });
        Hold::new(&serde_json::from_value(spec).unwrap(), Local::default())
    }

    fn clean() -> Clean {
        Clean { clean: true, says: "nothing left".to_owned() }
    }

    fn say(hold: &mut Hold, event: Event, is_reinjected: bool) -> After {
        hold.hear(Heard::Said(event), false, is_reinjected)
    }

    fn started(hold: &mut Hold) {
        let started = holder::Started { pid: 1, container: None, says: "burns".to_owned() };
        assert_eq!(say(hold, Event::Started(started), false), After::Write);
        assert_eq!(hold.status.phase, InjectionPhase::Holding);
    }

    #[test]
    fn the_first_bite_is_written_at_once_and_the_next_in_their_time() {
        let mut hold = hold();
        started(&mut hold);
        let bite = |bit| Event::Bite(Bite::new(bit, "so much", []));
        assert_eq!(say(&mut hold, bite(false), false), After::Nothing);
        assert_eq!(say(&mut hold, bite(true), false), After::Write);
        assert_eq!(say(&mut hold, bite(true), false), After::Nothing);
    }

    #[test]
    fn what_ends_before_its_time_is_lost_and_says_why() {
        let mut hold = hold();
        started(&mut hold);
        hold.cut = Some("a cord".to_owned());
        let After::Over(phase, why, clean) = say(&mut hold, Event::Cleared { end: End::Released, clean: clean() }, false) else {
            panic!("it is over")
        };
        let last = hold.last(phase, why, clean);
        assert_eq!((last.phase, last.why.as_deref()), (InjectionPhase::Lost, Some("a cord")));
        assert_eq!(last.clean.as_deref(), Some("nothing left"));
    }

    #[test]
    fn what_is_not_clean_has_no_proof_that_it_is() {
        let not_clean = Clean { clean: false, says: "a table".to_owned() };
        let last = hold().last(InjectionPhase::Cleared, "ended".to_owned(), Some(not_clean));
        assert_eq!((last.clean, last.why.as_deref()), (None, Some("NOT CLEAN: a table")));
    }

    #[test]
    fn a_container_that_is_gone_is_the_end_or_a_pause() {
        let lost = || Event::Lost { why: "the target is gone".to_owned(), clean: clean(), target_gone: true };
        let mut hold = hold();
        started(&mut hold);
        assert!(matches!(say(&mut hold, lost(), false), After::Over(InjectionPhase::Lost, ..)));
        assert_eq!(say(&mut hold, lost(), true), After::Write);
        assert_eq!((hold.status.phase, hold.between), (InjectionPhase::Pending, Some(Between::HolderEnds)));
        assert_eq!(hold.hear(Heard::Ended(Vec::new()), false, true), After::Nothing);
        assert_eq!(hold.between, Some(Between::Waits));
        hold.between = None;
        hold.restarts = 1;
        let refused = say(&mut hold, Event::Refused { why: "no".to_owned() }, true);
        assert!(matches!(refused, After::Over(InjectionPhase::Lost, ..)), "{refused:?}");
    }

    #[test]
    fn without_a_last_word_it_was_killed() {
        let mut hold = hold();
        started(&mut hold);
        for (left, is_clean) in [(vec![], true), (vec![7], false)] {
            let After::Over(InjectionPhase::Lost, _, Some(clean)) = hold.hear(Heard::Ended(left), false, true) else {
                panic!("it is over")
            };
            assert_eq!(clean.clean, is_clean, "{clean:?}");
        }
    }
}
