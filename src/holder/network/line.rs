//! One direction of the fault: packets come, wait, and leave as verdicts or as frames. Pure: bytes and times in, bytes
//! out.

use super::bite::{Bite, Measured, Quantiles};
use super::fate::{End, Model};
use super::netlink::Writer;
use super::packet;
use super::queue::{self, Verdict};
use super::waiting::{Due, Waiting};

/// Most bytes that wait in one direction: a tenth of a second at 10 Gbit/s. What waits in the kernel is charged to
/// nobody. Above this the next packets leave early.
pub const WAITING_BYTES_MAX: u64 = 128 << 20;
/// Verdicts of one call: far below the socket's buffer.
const VERDICTS_MAX: usize = 60 << 10;
/// Frames of one call.
const FRAMES_MAX: usize = 256;

/// A packet that waits.
#[derive(Debug)]
struct Held {
    came: u64,
    /// Its number in the kernel's queue; 0 for a frame, which is here.
    id: u32,
    end: End,
    twice: bool,
    bytes: Option<Box<[u8]>>,
}

/// One direction.
pub struct Line {
    model: Model,
    waiting: Waiting<Held>,
    undetected: bool,
    pub tally: Bite,
    /// When the packets of the last call came and should have left.
    left: Vec<(u64, u64)>,
    held: Measured,
    late: Measured,
}

impl Line {
    pub fn new(model: Model, undetected: bool) -> Self {
        Line {
            model,
            waiting: Waiting::default(),
            undetected,
            tally: Bite::default(),
            left: Vec::new(),
            held: Measured::default(),
            late: Measured::default(),
        }
    }

    /// A packet came. `bytes` begins with its IP header `offset` bytes in, and is kept only if it will be needed, or
    /// always where there is no `id` by which the kernel knows it.
    pub fn take(&mut self, now: u64, id: u32, length: u32, bytes: &[u8]) {
        let fate = self.model.fate(now, length);
        self.tally.taken += 1;
        self.tally.reordered += u64::from(fate.ahead);
        let needed = id == 0 || fate.twice || matches!(fate.end, End::Corrupted(_));
        // A packet that did not fit whole into the message cannot be written back.
        let whole = id == 0 || bytes.len() == length as usize;
        let bytes: Option<Box<[u8]>> = (needed && whole).then(|| bytes.into());
        self.waiting.push(fate.leaves_at, length, Held { came: now, id, end: fate.end, twice: fate.twice, bytes });
    }

    pub fn next_at(&self) -> Option<u64> {
        if self.waiting.bytes() > WAITING_BYTES_MAX { Some(0) } else { self.waiting.next_at() }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn pop(&mut self, now: u64) -> Option<Due<Held>> {
        let due = if self.waiting.bytes() > WAITING_BYTES_MAX {
            let due = self.waiting.pop();
            self.tally.early += u64::from(due.as_ref().is_some_and(|due| due.at > now));
            due
        } else {
            self.waiting.pop_due(now)
        }?;
        if due.at > due.item.came {
            self.tally.delayed += 1;
        }
        self.left.push((due.item.came, due.at));
        Some(due)
    }

    /// Writes verdicts on packets whose time has come, and returns second copies to be sent after them.
    pub fn let_out(&mut self, now: u64, number: u16, writer: &mut Writer) -> Vec<Box<[u8]>> {
        let mut copies = Vec::new();
        // One message accepts all packets up to an id; it is written when another kind must come after them.
        let mut accepted = None;
        while writer.len() < VERDICTS_MAX
            && let Some(due) = self.pop(now)
        {
            let Held { id, end, twice, bytes, .. } = due.item;
            let mut bytes = bytes;
            match end {
                End::Pass if due.oldest => accepted = Some(id),
                End::Pass => {
                    flush(writer, number, &mut accepted);
                    queue::verdict(writer, number, id, Verdict::Accept, None);
                }
                End::Corrupted(random) => {
                    flush(writer, number, &mut accepted);
                    let damaged = bytes.as_deref_mut().is_some_and(|bytes| self.damage(bytes, random));
                    queue::verdict(writer, number, id, Verdict::Accept, bytes.as_deref().filter(|_| damaged));
                }
                End::Lost => {
                    self.tally.lost += 1;
                    queue::verdict(writer, number, id, Verdict::Drop, None);
                }
                End::Overflowed => {
                    self.tally.overflowed += 1;
                    queue::verdict(writer, number, id, Verdict::Drop, None);
                }
            }
            if twice {
                match bytes {
                    Some(bytes) => copies.push(bytes),
                    None => self.tally.failed += 1,
                }
            }
        }
        flush(writer, number, &mut accepted);
        copies
    }

    /// Frames whose time has come, as they are to be sent. The IP header begins `offset` bytes in.
    pub fn frames_out(&mut self, now: u64, offset: usize) -> Vec<Box<[u8]>> {
        let mut frames = Vec::new();
        while frames.len() < FRAMES_MAX
            && let Some(due) = self.pop(now)
        {
            let Some(mut bytes) = due.item.bytes else { continue };
            match due.item.end {
                End::Pass => {}
                End::Corrupted(random) => {
                    if let Some(packet) = bytes.get_mut(offset..) {
                        self.damage(packet, random);
                    }
                }
                End::Lost => {
                    self.tally.lost += 1;
                    continue;
                }
                End::Overflowed => {
                    self.tally.overflowed += 1;
                    continue;
                }
            }
            if due.item.twice {
                self.tally.duplicated += 1;
                frames.push(bytes.clone());
            }
            frames.push(bytes);
        }
        frames
    }

    /// Writes verdicts that let everything pass unharmed, in the order in which it would have left.
    pub fn release(&mut self, number: u16, writer: &mut Writer) {
        let mut accepted = None;
        while let Some(due) = self.waiting.pop() {
            if due.oldest {
                accepted = Some(due.item.id);
            } else {
                flush(writer, number, &mut accepted);
                queue::verdict(writer, number, due.item.id, Verdict::Accept, None);
            }
        }
        flush(writer, number, &mut accepted);
    }

    /// Every frame that waits, unharmed.
    pub fn release_frames(&mut self) -> Vec<Box<[u8]>> {
        std::iter::from_fn(|| self.waiting.pop()).filter_map(|due| due.item.bytes).collect()
    }

    /// What the last call let out has left by `now`.
    pub fn have_left(&mut self, now: u64) {
        for (came, at) in self.left.drain(..) {
            self.held.add(now.saturating_sub(came));
            self.late.add(now.saturating_sub(at));
        }
    }

    /// Adds what this direction did, and how long that took in the last second, or in all of them.
    pub fn report(&mut self, bite: &mut Bite, whole: bool) {
        let Bite {
            after_ms: _,
            seen: _,
            hit: _,
            taken,
            delayed,
            lost,
            overflowed,
            duplicated,
            corrupted,
            reordered,
            early,
            taken_away,
            failed,
            reset: _,
            waiting: _,
            waiting_bytes: _,
            held_us: _,
            late_us: _,
        } = &self.tally;
        bite.taken += taken;
        bite.delayed += delayed;
        bite.lost += lost;
        bite.overflowed += overflowed;
        bite.duplicated += duplicated;
        bite.corrupted += corrupted;
        bite.reordered += reordered;
        bite.early += early;
        bite.taken_away += taken_away;
        bite.failed += failed;
        bite.waiting += self.waiting.len() as u64;
        bite.waiting_bytes += self.waiting.bytes();
        // Of two directions, the worse.
        let worse = |one: Option<Quantiles>, other: Option<Quantiles>| match (one, other) {
            (Some(one), Some(other)) => Some(if one.p99 >= other.p99 { one } else { other }),
            (one, other) => one.or(other),
        };
        let take = |measured: &mut Measured| if whole { measured.take_whole() } else { measured.take_second() };
        bite.held_us = worse(bite.held_us, take(&mut self.held));
        bite.late_us = worse(bite.late_us, take(&mut self.late));
    }

    fn damage(&mut self, bytes: &mut [u8], random: u64) -> bool {
        let flipped = if self.undetected { packet::corrupt_undetected(bytes, random) } else { packet::corrupt(bytes, random) };
        match flipped {
            Some(_) => self.tally.corrupted += 1,
            None => self.tally.failed += 1,
        }
        flipped.is_some()
    }
}

fn flush(writer: &mut Writer, number: u16, accepted: &mut Option<u32>) {
    if let Some(id) = accepted.take() {
        queue::accept_up_to(writer, number, id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::netlink::{array, be32, find, messages};
    use super::super::order::{Corrupt, Delay, Direction, Distribution, Loss, Shape};
    use super::*;

    const MS: u64 = 1_000_000;

    fn line(shape: &Shape) -> Line {
        Line::new(Model::new(shape, 1, Direction::In), false)
    }

    fn delay(mean_us: u64) -> Option<Delay> {
        Some(Delay { mean_us, ..Delay::default() })
    }

    /// What the kernel would do with these verdicts to the packets that wait in it: those accepted, in order.
    fn kernel(waiting: &mut Vec<u32>, writer: &Writer) -> (Vec<u32>, Vec<u32>) {
        let (mut accepted, mut dropped) = (Vec::new(), Vec::new());
        for message in messages(writer.bytes()) {
            let header = find(&message.body[4..], &[2]).unwrap();
            let (verdict, id) = (be32(header), u32::from_be_bytes(array(&header[4..])));
            let batch = message.kind & 0xff == 3;
            let concerned: Vec<u32> = waiting.iter().copied().filter(|one| if batch { *one <= id } else { *one == id }).collect();
            assert!(!concerned.is_empty(), "a verdict on nobody: {id}");
            waiting.retain(|one| !concerned.contains(one));
            if verdict == 1 { accepted.extend(concerned) } else { dropped.extend(concerned) }
        }
        (accepted, dropped)
    }

    #[test]
    fn a_thousand_packets_in_order_are_let_out_by_one_message() {
        let mut line = line(&Shape { delay: delay(10_000), ..Shape::default() });
        (1..=1_000).for_each(|id| line.take(u64::from(id), id, 100, &[]));
        let mut writer = Writer::default();
        line.let_out(9 * MS, 5, &mut writer);
        assert!(writer.is_empty());
        line.let_out(11 * MS, 5, &mut writer);
        assert_eq!(messages(writer.bytes()).count(), 1);
        let (accepted, dropped) = kernel(&mut (1..=1_000).collect(), &writer);
        assert_eq!((accepted.len(), dropped.len(), line.tally.delayed), (1_000, 0, 1_000));
    }

    #[test]
    fn more_bytes_than_may_wait_leave_early_and_are_counted() {
        let mut line = line(&Shape { delay: delay(1_000_000), ..Shape::default() });
        (1..=3_000).for_each(|id| line.take(0, id, 64_000, &[]));
        let mut writer = Writer::default();
        line.let_out(1, 5, &mut writer);
        let (accepted, _) = kernel(&mut (1..=3_000).collect(), &writer);
        assert_eq!(line.tally.early, accepted.len() as u64);
        assert!(accepted.len() > 800 && line.waiting.bytes() <= WAITING_BYTES_MAX, "{}", accepted.len());
        assert_eq!(line.next_at(), Some(1_000 * MS));
    }

    #[test]
    fn what_is_let_go_before_its_time_at_the_end_is_unharmed() {
        let shape = Shape {
            delay: delay(1_000),
            loss: Some(Loss { percent: 50.0, burst: 1.0 }),
            corrupt: Some(Corrupt { percent: 50.0, undetected: false }),
            reorder_percent: Some(50.0),
            ..Shape::default()
        };
        let mut line = line(&shape);
        (1..=200).for_each(|id| line.take(0, id, 1, &[0x45]));
        let mut writer = Writer::default();
        line.release(5, &mut writer);
        let (accepted, dropped) = kernel(&mut (1..=200).collect(), &writer);
        assert_eq!((accepted.len(), dropped.len()), (200, 0));
        assert!(messages(writer.bytes()).all(|message| find(&message.body[4..], &[10]).is_none()));
    }

    proptest! {
        #[test]
        fn every_packet_gets_exactly_one_verdict_in_its_turn(
            arrivals in proptest::collection::vec((0u64..3_000_000, 1u32..1_500), 1..200),
            mean_us in 1u64..5_000, loss in 1u32..80, reorder in proptest::option::of(1u32..80), seed: u64,
        ) {
            let shape = Shape {
                delay: Some(Delay { mean_us, jitter_us: mean_us / 2, distribution: Distribution::Normal, correlation: 0.0 }),
                loss: Some(Loss { percent: f64::from(loss), burst: 1.0 }),
                reorder_percent: reorder.map(f64::from),
                ..Shape::default()
            };
            let mut line = Line::new(Model::new(&shape, seed, Direction::In), false);
            let (mut waiting, mut passed, mut gone) = (Vec::new(), Vec::new(), 0);
            let mut now = 1_000;
            let count = arrivals.len();
            for (index, (gap, length)) in arrivals.into_iter().enumerate() {
                let id = index as u32 + 1;
                line.take(now, id, length, &[]);
                waiting.push(id);
                now += gap;
                let mut writer = Writer::default();
                line.let_out(now, 5, &mut writer);
                let (accepted, dropped) = kernel(&mut waiting, &writer);
                passed.extend(accepted);
                gone += dropped.len();
                prop_assert!(line.next_at().is_none_or(|at| at > now));
            }
            let mut writer = Writer::default();
            line.let_out(u64::MAX, 5, &mut writer);
            let (accepted, dropped) = kernel(&mut waiting, &writer);
            passed.extend(accepted);
            gone += dropped.len();
            prop_assert!(waiting.is_empty() && line.is_empty());
            prop_assert_eq!(passed.len() + gone, count);
            prop_assert_eq!(gone as u64, line.tally.lost);
            if reorder.is_none() {
                prop_assert!(passed.is_sorted());
            }
        }
    }
}
