//! When to wake for a packet whose time will come. Pure.

/// Whoever sleeps long wakes late, so it is woken early, and asks the clock again and again until the time has come.
#[derive(Default)]
pub struct Alarm {
    /// The time for which it is set early.
    early_for: Option<u64>,
}

impl Alarm {
    /// A sleep as long as this ends early, that of a delay of 1 ms too. So there is one early wake in this time at most:
    /// a fifteenth of a processor.
    const LONG_NS: u64 = 900_000;
    /// So much, by which a processor that idles is late.
    const EARLY_NS: u64 = 60_000;

    /// When to wake for what is due at `next`.
    pub fn before(&mut self, next: Option<u64>, now: u64) -> Option<u64> {
        let next = next?;
        if next >= now + Self::LONG_NS {
            self.early_for = Some(next);
        }
        Some(if self.early_for == Some(next) { next - Self::EARLY_NS } else { next })
    }
}

#[cfg(test)]
mod tests {
    use super::Alarm;

    #[test]
    fn only_a_long_sleep_ends_early_and_stays_so_for_the_same_packet() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.before(None, 0), None);
        assert_eq!(alarm.before(Some(800_000), 0), Some(800_000));
        assert_eq!(alarm.before(Some(5_000_000), 1_000_000), Some(4_940_000));
        // Another came meanwhile, and leaves later.
        assert_eq!(alarm.before(Some(5_000_000), 4_500_000), Some(4_940_000));
        assert_eq!(alarm.before(Some(5_100_000), 5_000_000), Some(5_100_000));
    }
}
