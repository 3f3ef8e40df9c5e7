//! The only source of chance in a rehearsal.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::api::Duration;

/// Draws from a seed; ChaCha8, so that a seed in an old report still means the same.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number from 0 up to, and without, `limit`. 0 where there is nothing to choose from.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.0.next_u64() % limit }
    }

    /// An index into so many things.
    pub fn index(&mut self, of: usize) -> usize {
        usize::try_from(self.below(of as u64)).expect("below a usize")
    }

    /// From `low` to `high` percent of a length.
    pub fn around(&mut self, length: Duration, low: u64, high: u64) -> Duration {
        let percent = low + self.below(high - low + 1);
        Duration::from_millis(length.as_millis() * percent / 100)
    }

    /// Five letters, as a ReplicaSet names its pods.
    pub fn suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5).map(|_| char::from(LETTERS[self.index(LETTERS.len())])).collect()
    }
}
