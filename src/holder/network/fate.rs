//! What becomes of each packet. Pure: times are arguments, chance is a seed; the same packets at the same times meet
//! the same fate.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::jitter::{Jitter, unit};
use super::order::{Direction, Loss, Shape};

/// Longest a packet waits for the rate before its sending begins; above, it is dropped, as a router's full queue does.
/// Two tenths of a second is what many access links buffer. One packet passes always.
pub const RATE_BACKLOG_NS: u64 = 200_000_000;

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// When it leaves, on the clock of its arrival.
    pub leaves_at: u64,
    pub end: End,
    /// A second copy leaves with it.
    pub twice: bool,
    /// It was let go ahead of those before it.
    pub ahead: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Pass,
    /// With damage, chosen by this number.
    Corrupted(u64),
    Lost,
    /// The rate's queue was full.
    Overflowed,
}

/// The faults of one direction.
#[derive(Clone, Debug)]
pub struct Model {
    shape: Shape,
    random: ChaCha8Rng,
    jitter: Jitter,
    burst: Burst,
    /// No packet leaves before the last one did, unless reordering is asked for.
    last_leaves_at: u64,
    /// Until when the link is busy with the packets before.
    busy_until: u64,
}

/// Gilbert's channel: in the bad state every packet is lost.
#[derive(Clone, Copy, Debug)]
struct Burst {
    bad: bool,
    into_bad: f64,
    out_of_bad: f64,
}

impl Model {
    pub fn new(shape: &Shape, seed: u64, direction: Direction) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(match direction {
            Direction::In => 0,
            Direction::Out => 1,
            Direction::Both => 2,
        });
        let delay = shape.delay.unwrap_or_default();
        Model {
            shape: shape.clone(),
            random,
            jitter: Jitter::new(delay.jitter_us * 1_000, delay.distribution, delay.correlation),
            burst: Burst::new(shape.loss),
            last_leaves_at: 0,
            busy_until: 0,
        }
    }

    /// What becomes of a packet of `length` bytes that came at `now`.
    pub fn fate(&mut self, now: u64, length: u32) -> Fate {
        let lost = self.is_lost();
        let corrupt = self.shape.corrupt.is_some_and(|corrupt| self.chance(corrupt.percent));
        let twice = self.shape.duplicate_percent.is_some_and(|percent| self.chance(percent));
        let ahead = self.shape.reorder_percent.is_some_and(|percent| self.chance(percent));
        let mut leaves_at = if ahead { now } else { now.saturating_add(self.delay(now)) };
        if lost {
            let leaves_at = self.in_order(leaves_at);
            return Fate { leaves_at, end: End::Lost, twice: false, ahead: false };
        }
        if let Some(rate) = self.shape.rate_bits_per_s {
            let begins = leaves_at.max(self.busy_until);
            if begins - leaves_at > RATE_BACKLOG_NS {
                let leaves_at = self.in_order(leaves_at);
                return Fate { leaves_at, end: End::Overflowed, twice: false, ahead: false };
            }
            let sending = u128::from(length) * 8 * 1_000_000_000 / u128::from(rate.max(1));
            self.busy_until = begins.saturating_add(u64::try_from(sending).unwrap_or(u64::MAX));
            leaves_at = self.busy_until;
        }
        let leaves_at = self.in_order(leaves_at);
        let end = if corrupt { End::Corrupted(self.random.next_u64()) } else { End::Pass };
        Fate { leaves_at, end, twice, ahead }
    }

    fn delay(&mut self, now: u64) -> u64 {
        let Some(delay) = self.shape.delay else { return 0 };
        let mean = i64::try_from(delay.mean_us).unwrap_or(i64::MAX / 1_000) * 1_000;
        let jitter = match delay.jitter_us {
            0 => 0,
            _ if self.shape.reorder_percent.is_some() => self.jitter.draw(&mut self.random),
            _ => self.jitter.drift(now, &mut self.random),
        };
        u64::try_from(mean.saturating_add(jitter)).unwrap_or(0)
    }

    fn in_order(&mut self, leaves_at: u64) -> u64 {
        if self.shape.reorder_percent.is_some() {
            return leaves_at;
        }
        self.last_leaves_at = leaves_at.max(self.last_leaves_at);
        self.last_leaves_at
    }

    fn is_lost(&mut self) -> bool {
        let Some(loss) = self.shape.loss else { return false };
        if loss.burst <= 1.0 {
            return self.chance(loss.percent);
        }
        let turn = if self.burst.bad { self.burst.out_of_bad } else { self.burst.into_bad };
        if unit(&mut self.random) < turn {
            self.burst.bad = !self.burst.bad;
        }
        self.burst.bad
    }

    fn chance(&mut self, percent: f64) -> bool {
        unit(&mut self.random) * 100.0 < percent
    }
}

impl Burst {
    /// A burst of mean length n ends with probability 1/n at each packet; how often one begins follows from the share
    /// that is to be lost.
    fn new(loss: Option<Loss>) -> Self {
        let Some(loss) = loss.filter(|loss| loss.burst > 1.0) else {
            return Burst { bad: false, into_bad: 0.0, out_of_bad: 1.0 };
        };
        let share = loss.percent / 100.0;
        let out_of_bad = if share < 1.0 { 1.0 / loss.burst } else { 0.0 };
        let into_bad = if share < 1.0 { (out_of_bad * share / (1.0 - share)).min(1.0) } else { 1.0 };
        Burst { bad: false, into_bad, out_of_bad }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::order::{Corrupt, Delay, Distribution};
    use super::*;

    const MS: u64 = 1_000_000;

    fn model(shape: &Shape) -> Model {
        Model::new(shape, 7, Direction::In)
    }

    fn fates(shape: &Shape, count: u64, apart_ns: u64) -> Vec<(u64, Fate)> {
        let mut model = model(shape);
        (1..=count).map(|packet| (packet * apart_ns, model.fate(packet * apart_ns, 1_000))).collect()
    }

    fn delay(mean_ms: u64, jitter_ms: u64, distribution: Distribution) -> Option<Delay> {
        Some(Delay { mean_us: mean_ms * 1_000, jitter_us: jitter_ms * 1_000, distribution, correlation: 0.0 })
    }

    #[test]
    fn a_plain_delay_is_the_same_for_every_packet() {
        let shape = Shape { delay: delay(10, 0, Distribution::Uniform), ..Shape::default() };
        for (came, fate) in fates(&shape, 1_000, 1_234) {
            assert_eq!(fate, Fate { leaves_at: came + 10 * MS, end: End::Pass, twice: false, ahead: false });
        }
    }

    #[test]
    fn jitter_keeps_order_mean_and_deviation_at_any_rate_of_packets() {
        for (distribution, deviation) in
            [(Distribution::Uniform, 10.0 / 3f64.sqrt()), (Distribution::Normal, 10.0), (Distribution::Pareto, 10.0)]
        {
            for apart_ns in [500_000, 10 * MS] {
                // Long enough for a few thousand independent draws.
                let seconds = if distribution == Distribution::Pareto { 800 } else { 100 };
                let shape = Shape { delay: delay(40, 10, distribution), ..Shape::default() };
                let mut model = model(&shape);
                let (mut last, mut sum, mut squares, mut count) = (0, 0.0, 0.0, 0.0);
                for packet in 1..=(seconds * 1_000 * MS / apart_ns) {
                    let now = packet * apart_ns;
                    let leaves_at = model.fate(now, 100).leaves_at;
                    assert!(leaves_at >= last);
                    last = leaves_at;
                    let held = (leaves_at - now) as f64 / 1e6;
                    (sum, squares, count) = (sum + held, squares + held * held, count + 1.0);
                }
                let mean = sum / count;
                let found = (squares / count - mean * mean).sqrt();
                assert!((mean - 40.0).abs() < 1.0, "{distribution:?} {apart_ns}: mean {mean}");
                assert!((found / deviation - 1.0).abs() < 0.1, "{distribution:?} {apart_ns}: {found}, not {deviation}");
            }
        }
    }

    #[test]
    fn independent_loss_is_the_share_asked_for_and_does_not_cluster() {
        let shape = Shape { loss: Some(Loss { percent: 5.0, burst: 1.0 }), ..Shape::default() };
        let lost: Vec<bool> = fates(&shape, 200_000, 1_000).iter().map(|(_, fate)| fate.end == End::Lost).collect();
        let (share, burst) = share_and_burst(&lost);
        assert!((share - 0.05).abs() < 0.002, "{share}");
        assert!((burst - 1.0 / 0.95).abs() < 0.03, "{burst}");
    }

    #[test]
    fn loss_in_bursts_has_the_share_and_the_length_asked_for() {
        for (percent, length) in [(1.0, 3.0), (5.0, 5.0), (30.0, 10.0), (100.0, 5.0)] {
            let shape = Shape { loss: Some(Loss { percent, burst: length }), ..Shape::default() };
            let lost: Vec<bool> = fates(&shape, 1_000_000, 1_000).iter().map(|(_, fate)| fate.end == End::Lost).collect();
            let (share, burst) = share_and_burst(&lost);
            assert!((share * 100.0 / percent - 1.0).abs() < 0.05, "{percent} in {length}: {share}");
            assert!(percent == 100.0 || (burst / length - 1.0).abs() < 0.05, "{percent} in {length}: {burst}");
        }
    }

    fn share_and_burst(lost: &[bool]) -> (f64, f64) {
        let count = lost.iter().filter(|lost| **lost).count() as f64;
        let bursts = lost.windows(2).filter(|pair| pair[0] && !pair[1]).count() as f64;
        (count / lost.len() as f64, count / bursts)
    }

    #[test]
    fn a_rate_is_kept_over_time_and_what_exceeds_its_queue_is_dropped() {
        // 10 Mbit/s offered 20.
        let shape = Shape { rate_bits_per_s: Some(10_000_000), ..Shape::default() };
        let seen = fates(&shape, 100_000, 400_000);
        let passed = seen.iter().filter(|(_, fate)| fate.end == End::Pass).count() as f64;
        let seconds = seen.last().unwrap().1.leaves_at as f64 / 1e9;
        let rate = passed * 8_000.0 / seconds;
        assert!((rate / 1e7 - 1.0).abs() < 0.01, "{rate}");
        assert!(seen.iter().all(|(came, fate)| fate.leaves_at - came <= RATE_BACKLOG_NS + MS));
    }

    #[test]
    fn a_rate_slower_than_one_packet_still_lets_packets_pass() {
        let shape = Shape { rate_bits_per_s: Some(1_000), ..Shape::default() };
        let passed = fates(&shape, 1_000, 100 * MS).iter().filter(|(_, fate)| fate.end == End::Pass).count();
        assert!((10..20).contains(&passed), "{passed} in 100 s at one in 8 s");
    }

    #[test]
    fn reordered_packets_overtake_and_the_others_keep_their_delay() {
        let shape = Shape { delay: delay(10, 0, Distribution::Uniform), reorder_percent: Some(10.0), ..Shape::default() };
        let seen = fates(&shape, 100_000, 100_000);
        let ahead = seen.iter().filter(|(came, fate)| fate.ahead && fate.leaves_at == *came).count();
        assert!((9_500..10_500).contains(&ahead), "{ahead}");
        assert!(seen.iter().all(|(came, fate)| fate.ahead || fate.leaves_at == came + 10 * MS));
    }

    #[test]
    fn duplicates_and_corruption_are_the_share_asked_for() {
        let shape = Shape {
            duplicate_percent: Some(10.0),
            corrupt: Some(Corrupt { percent: 3.0, undetected: false }),
            ..Shape::default()
        };
        let seen = fates(&shape, 100_000, 1_000);
        let twice = seen.iter().filter(|(_, fate)| fate.twice).count();
        let corrupted = seen.iter().filter(|(_, fate)| matches!(fate.end, End::Corrupted(_))).count();
        assert!((9_600..10_400).contains(&twice), "{twice}");
        assert!((2_800..3_200).contains(&corrupted), "{corrupted}");
    }

    #[test]
    fn the_same_seed_is_the_same_fate_and_the_directions_differ() {
        let shape = Shape { loss: Some(Loss { percent: 50.0, burst: 1.0 }), ..Shape::default() };
        let fates = |seed, direction| {
            let mut model = Model::new(&shape, seed, direction);
            (0..64).map(|packet| model.fate(packet, 100).end == End::Lost).collect::<Vec<bool>>()
        };
        assert_eq!(fates(1, Direction::In), fates(1, Direction::In));
        assert_ne!(fates(1, Direction::In), fates(1, Direction::Out));
        assert_ne!(fates(1, Direction::In), fates(2, Direction::In));
    }

    proptest! {
        #[test]
        fn no_packet_leaves_before_it_came_nor_before_its_predecessor(
            gaps in proptest::collection::vec(0u64..30_000_000, 1..400),
            mean_us in 0u64..200_000, part in 0u64..=100, kind in 0usize..3, rate in proptest::option::of(1u64..10_000_000_000),
            seed: u64,
        ) {
            let distribution = [Distribution::Uniform, Distribution::Normal, Distribution::Pareto][kind];
            let delay = Some(Delay { mean_us, jitter_us: mean_us * part / 100, distribution, correlation: 0.3 });
            let shape = Shape { delay, rate_bits_per_s: rate, ..Shape::default() };
            let mut model = Model::new(&shape, seed, Direction::In);
            let (mut now, mut last) = (1_000_000_000, 0);
            for gap in gaps {
                now += gap;
                let fate = model.fate(now, 1_500);
                prop_assert!(fate.leaves_at >= now && fate.leaves_at >= last);
                last = fate.leaves_at;
            }
        }
    }
}
