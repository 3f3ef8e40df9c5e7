//! What waits for its time, earliest first; of equal times, the one that came first. Pure.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// Packets that wait. Those that come in the order of their times cost nothing to sort; only the others do.
#[derive(Debug)]
pub struct Waiting<T> {
    in_order: VecDeque<Entry<T>>,
    others: BinaryHeap<Entry<T>>,
    bytes: u64,
    sequence: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    sequence: u64,
    bytes: u32,
    item: T,
}

/// Something whose time has come.
#[derive(Debug, PartialEq, Eq)]
pub struct Due<T> {
    pub item: T,
    /// When it should have left.
    pub at: u64,
    /// Nothing that came before it waits any more.
    pub oldest: bool,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Waiting { in_order: VecDeque::new(), others: BinaryHeap::new(), bytes: 0, sequence: 0 }
    }
}

impl<T> Waiting<T> {
    pub fn push(&mut self, at: u64, bytes: u32, item: T) {
        self.sequence += 1;
        self.bytes += u64::from(bytes);
        let entry = Entry { at, sequence: self.sequence, bytes, item };
        if self.in_order.back().is_none_or(|last| last.at <= at) {
            self.in_order.push_back(entry);
        } else {
            self.others.push(entry);
        }
    }

    pub fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of what was given as `bytes`.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the next one leaves.
    pub fn next_at(&self) -> Option<u64> {
        self.earliest().map(|entry| entry.at)
    }

    /// The next one whose time has come.
    pub fn pop_due(&mut self, now: u64) -> Option<Due<T>> {
        if self.next_at()? <= now { self.pop() } else { None }
    }

    /// The next one, whether or not its time has come.
    pub fn pop(&mut self) -> Option<Due<T>> {
        let from_others = match (self.in_order.front(), self.others.peek()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(first), Some(other)) => other.is_before(first),
        };
        let entry = if from_others { self.others.pop() } else { self.in_order.pop_front() }?;
        self.bytes -= u64::from(entry.bytes);
        // The in-order ones came in the order in which they leave; so only the others can be older.
        let oldest = self.others.is_empty() && !from_others;
        Some(Due { item: entry.item, at: entry.at, oldest })
    }

    fn earliest(&self) -> Option<&Entry<T>> {
        match (self.in_order.front(), self.others.peek()) {
            (Some(first), Some(other)) => Some(if other.is_before(first) { other } else { first }),
            (first, other) => first.or(other),
        }
    }
}

impl<T> Entry<T> {
    fn is_before(&self, other: &Self) -> bool {
        (self.at, self.sequence) < (other.at, other.sequence)
    }
}

/// Reversed, so that the heap's greatest is the earliest.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_leaves_before_its_time() {
        let mut waiting = Waiting::default();
        waiting.push(10, 100, "a");
        assert_eq!(waiting.pop_due(9), None);
        assert_eq!(waiting.next_at(), Some(10));
        assert_eq!(waiting.pop_due(10), Some(Due { item: "a", at: 10, oldest: true }));
        assert_eq!(waiting.next_at(), None);
    }

    proptest! {
        #[test]
        fn all_leave_by_time_then_by_arrival_and_oldest_is_true_only_when_it_is(
            pushes in proptest::collection::vec((0u64..50, 0u32..2_000, 0u64..60), 0..200)
        ) {
            let mut waiting = Waiting::default();
            let mut model: Vec<(u64, usize, u32)> = Vec::new();
            for (arrival, (at, bytes, now)) in pushes.into_iter().enumerate() {
                waiting.push(at, bytes, arrival);
                model.push((at, arrival, bytes));
                while let Some(due) = waiting.pop_due(now) {
                    let first = *model.iter().min().unwrap();
                    model.retain(|entry| *entry != first);
                    prop_assert_eq!((due.at, due.item), (first.0, first.1));
                    if due.oldest {
                        prop_assert!(model.iter().all(|(_, arrival, _)| *arrival > due.item));
                    }
                }
                prop_assert!(model.iter().all(|(at, _, _)| *at > now));
                prop_assert_eq!(waiting.len(), model.len());
                prop_assert_eq!(waiting.bytes(), model.iter().map(|(_, _, bytes)| u64::from(*bytes)).sum::<u64>());
            }
        }
    }
}
