//! For how long what the kernel has no room for is tried again. Pure.

use std::time::{Duration, Instant};

/// After this it is given up, so that an order to end is seen, and what comes after it is not held up.
const PATIENCE: Duration = Duration::from_millis(500);
/// After giving up, nothing is waited for: the kernel says the same of a device that is down.
const RESPITE: Duration = Duration::from_secs(10);

/// Whether the kernel has room for what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Enough,
    NoneSince(Instant),
    GivenUpUntil(Instant),
}

impl Room {
    /// There was room. What was sent in a respite says nothing about what was given up.
    pub fn found(&mut self) {
        if let Room::NoneSince(_) = self {
            *self = Room::Enough;
        }
    }

    /// There was none: whether to wait a moment and try again.
    pub fn waits(&mut self, now: Instant) -> bool {
        match *self {
            Room::GivenUpUntil(until) if now < until => {}
            Room::NoneSince(since) if now < since + PATIENCE => return true,
            Room::NoneSince(_) => *self = Room::GivenUpUntil(now + RESPITE),
            Room::Enough | Room::GivenUpUntil(_) => {
                *self = Room::NoneSince(now);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_half_a_second_in_ten_at_most_and_as_often_as_it_helps() {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut room = Room::Enough;
        for time in [0, 499] {
            assert!(room.waits(at(time)));
        }
        room.found();
        for time in [600, 1_000] {
            assert!(room.waits(at(time)));
        }
        for time in [1_100, 1_101, 11_099] {
            assert!(!room.waits(at(time)));
            room.found();
        }
        assert!(room.waits(at(11_100)));
    }
}
