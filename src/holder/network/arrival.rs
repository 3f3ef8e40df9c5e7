//! When packets came that are read later, from what the kernel stamped on them. No I/O.

/// A holder that wakes later than this has worse troubles than when a packet came.
const AGE_MAX_NS: u64 = 1_000_000_000;

/// When packets were read, by the clock that times them and by the one that stamps them.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub at: u64,
    pub of_day: u64,
}

/// The packets of one source, read in the order in which they came.
#[derive(Debug)]
pub struct Arrivals {
    /// None that is read from now on came before.
    since: u64,
}

impl Arrivals {
    pub fn since(now: u64) -> Self {
        Arrivals { since: now }
    }

    /// When the next packet came: not when a process that slept had woken to read it, if it bears a stamp, in
    /// nanoseconds since 1970. A stamp that would make it older than [`AGE_MAX_NS`] is of another clock, or the clock
    /// was set in between: then it came when it was read.
    pub fn came(&mut self, read: Read, stamp: Option<u64>) -> u64 {
        let age = stamp.map_or(0, |stamp| read.of_day.saturating_sub(stamp));
        let age = if age > AGE_MAX_NS { 0 } else { age };
        self.since = read.at.saturating_sub(age).max(self.since).min(read.at);
        self.since
    }

    /// There was nothing more to read at this time.
    pub fn empty_at(&mut self, time: u64) {
        self.since = self.since.max(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_when_it_came_whatever_the_clock_of_the_day_did_since() {
        let read = Read { at: 500_000, of_day: 9_000_068_000 };
        let came = |read, stamp| Arrivals::since(100_000).came(read, stamp);
        let stamp = Some(9_000_008_000);
        assert_eq!(came(read, stamp), 440_000);
        assert_eq!(came(read, None), 500_000);
        assert_eq!(came(Read { of_day: 9_300_000_000, ..read }, stamp), 100_000);
        assert_eq!(came(Read { of_day: 3_609_000_068_000, ..read }, stamp), 500_000);
        assert_eq!(came(Read { of_day: 0, ..read }, stamp), 500_000);
    }

    #[test]
    fn none_came_before_one_that_was_read_before_it_or_before_there_was_none() {
        let read = Read { at: 500_000, of_day: 9_000_068_000 };
        let mut arrivals = Arrivals::since(100_000);
        assert_eq!(arrivals.came(read, Some(9_000_008_000)), 440_000);
        assert_eq!(arrivals.came(read, Some(9_000_000_000)), 440_000);
        arrivals.empty_at(450_000);
        assert_eq!(arrivals.came(read, Some(9_000_000_000)), 450_000);
    }
}
