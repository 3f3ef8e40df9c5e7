//! Who is hit: the same seed and the same candidates give the same victims (P9).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The candidates in the order in which they are taken. Each candidate's place depends on the seed, the
/// experiment, the round and its own name only: where one is replaced, the others keep their order.
pub fn rank<'a, T>(seed: u64, experiment: &str, round: u32, candidates: &'a [T], name: impl Fn(&T) -> &str) -> Vec<&'a T> {
    let mut ranked: Vec<(u64, &str, &T)> =
        candidates.iter().map(|candidate| (lot(seed, experiment, round, name(candidate)), name(candidate), candidate)).collect();
    ranked.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    ranked.into_iter().map(|(_, _, candidate)| candidate).collect()
}

/// A candidate's lot. ChaCha8, because `StdRng` may change from version to version, and a seed in an old report
/// must still mean the same.
pub(super) fn lot(seed: u64, experiment: &str, round: u32, name: &str) -> u64 {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&fnv1a(experiment).to_le_bytes());
    key[16..24].copy_from_slice(&fnv1a(name).to_le_bytes());
    key[24..28].copy_from_slice(&round.to_le_bytes());
    ChaCha8Rng::from_seed(key).next_u64()
}

/// FNV-1a, 64 bits, with the offset basis and prime of its authors (draft-eastlake-fnv). Only to turn a name
/// into a number; ChaCha8 does the mixing.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("checkout-{index}")).collect()
    }

    fn take(seed: u64, candidates: &[String], count: usize) -> Vec<String> {
        rank(seed, "lose-a-pod", 0, candidates, |name| name).into_iter().take(count).cloned().collect()
    }

    #[test]
    fn the_same_seed_and_candidates_give_the_same_victims_in_any_order() {
        let mut candidates = names(20);
        let first = take(7, &candidates, 5);
        candidates.reverse();
        assert_eq!(first, take(7, &candidates, 5));
        assert_ne!(first, take(8, &candidates, 5));
    }

    #[test]
    fn when_one_candidate_is_replaced_the_other_choices_stay() {
        let candidates = names(20);
        let first = take(7, &candidates, 5);
        let replaced: Vec<String> =
            candidates.iter().map(|name| if *name == first[0] { "checkout-new".to_owned() } else { name.clone() }).collect();
        let second = take(7, &replaced, 5);
        assert!(first[1..].iter().all(|name| second.contains(name)), "{first:?} {second:?}");
    }

    #[test]
    fn every_candidate_is_taken_about_equally_often() {
        let candidates = names(10);
        let mut taken = std::collections::BTreeMap::new();
        for seed in 0..2_000 {
            *taken.entry(take(seed, &candidates, 1).remove(0)).or_insert(0) += 1;
        }
        // 200 expected each; five standard deviations of a binomial(2000, 0.1) are 67.
        assert!(taken.len() == 10 && taken.values().all(|count| (133..267).contains(count)), "{taken:?}");
    }

    #[test]
    fn this_seed_means_this_victim_for_ever() {
        assert_eq!(take(7, &names(3), 3), ["checkout-1", "checkout-2", "checkout-0"]);
    }
}
