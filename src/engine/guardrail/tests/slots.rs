use proptest::prelude::*;

use super::*;
use crate::api::GuardrailStatus;
use crate::engine::guardrail::slots::{Board, Next, Ticket, Waits, leave, sweep, turn};

fn ticket(name: &str, minute: i64) -> Ticket {
    let since = time("2026-11-24T10:00:00Z") + jiff::SignedDuration::from_mins(minute);
    Ticket { namespace: "shop".to_owned(), run: name.to_owned(), uid: format!("uid-{name}"), since }
}

fn board<'a>(name: &'a str, limit: usize, status: &'a GuardrailStatus) -> Board<'a> {
    Board { name, limit, status }
}

fn now() -> Timestamp {
    time("2026-11-24T12:00:00Z")
}

/// Goes on until nothing is to be written any more.
fn settle(statuses: &mut [(&str, usize, GuardrailStatus)], ticket: &Ticket, over: &BTreeSet<String>) -> Next {
    for _ in 0..20 {
        let boards: Vec<Board> = statuses.iter().map(|(name, limit, status)| board(name, *limit, status)).collect();
        match turn(&boards, ticket, over, now()) {
            Next::Write { guardrail, status } | Next::GiveBack { guardrail, status } => {
                statuses.iter_mut().find(|(name, ..)| *name == guardrail).unwrap().2 = status;
            }
            next @ (Next::Taken | Next::Wait(_)) => return next,
        }
    }
    panic!("never settles")
}

#[test]
fn who_waits_says_for_whom_and_since_when() {
    let mut statuses = [("staging", 1, GuardrailStatus::default())];
    assert_eq!(settle(&mut statuses, &ticket("first", 0), &BTreeSet::new()), Next::Taken);
    let Next::Wait(second) = settle(&mut statuses, &ticket("second", 5), &BTreeSet::new()) else { panic!() };
    assert_eq!(
        second.to_string(),
        "guardrail staging, runs: it allows 1 run at once; at work: shop/first since 2026-11-24T12:00:00Z; number 1 in the \
         queue since 2026-11-24T10:05:00Z"
    );
    let Next::Wait(third) = settle(&mut statuses, &ticket("third", 7), &BTreeSet::new()) else { panic!() };
    assert_eq!(third.ahead, 1);
    assert_eq!((statuses[0].2.in_progress, statuses[0].2.waiting_runs), (1, 2));
}

#[test]
fn nobody_overtakes_who_waits_longer() {
    let mut statuses = [("staging", 1, GuardrailStatus::default())];
    settle(&mut statuses, &ticket("first", 0), &BTreeSet::new());
    settle(&mut statuses, &ticket("second", 5), &BTreeSet::new());
    settle(&mut statuses, &ticket("third", 7), &BTreeSet::new());
    let over = BTreeSet::from(["uid-first".to_owned()]);
    assert!(matches!(settle(&mut statuses, &ticket("third", 7), &over), Next::Wait(Waits { ahead: 1, .. })));
    assert_eq!(settle(&mut statuses, &ticket("second", 5), &over), Next::Taken);
    assert_eq!(statuses[0].2.runs[0].run, "second");
}

#[test]
fn a_slot_of_a_run_that_is_over_is_free_also_when_nobody_gave_it_back() {
    let mut statuses = [("staging", 1, GuardrailStatus::default())];
    settle(&mut statuses, &ticket("crashed", 0), &BTreeSet::new());
    assert!(matches!(settle(&mut statuses, &ticket("next", 5), &BTreeSet::new()), Next::Wait(_)), "not known to be over");
    let over = BTreeSet::from(["uid-crashed".to_owned()]);
    assert_eq!(settle(&mut statuses, &ticket("next", 5), &over), Next::Taken);
    assert_eq!(statuses[0].2.runs.len(), 1);
    assert_eq!(sweep(&statuses[0].2, &over), None);
    assert_eq!(leave(&statuses[0].2, "uid-next"), Some(GuardrailStatus::default()));
}

#[test]
fn all_slots_or_none() {
    let mut statuses = [("a", 1, GuardrailStatus::default()), ("b", 1, GuardrailStatus::default())];
    let mut only_b = [("b", 1, GuardrailStatus::default())];
    assert_eq!(settle(&mut only_b, &ticket("other", 0), &BTreeSet::new()), Next::Taken);
    statuses[1].2 = only_b[0].2.clone();
    assert!(matches!(settle(&mut statuses, &ticket("both", 5), &BTreeSet::new()), Next::Wait(_)));
    assert_eq!(statuses[0].2.runs, [], "a slot is held while it waits for another");
    // One that a crash left half taken is given back while the other cannot be had.
    statuses[0].2.waiting.clear();
    let since = ticket("both", 5).since;
    statuses[0].2.runs.push(crate::api::Slot {
        namespace: "shop".to_owned(),
        run: "both".to_owned(),
        uid: "uid-both".to_owned(),
        since,
        taken: now(),
    });
    assert!(matches!(settle(&mut statuses, &ticket("both", 5), &BTreeSet::new()), Next::Wait(_)));
    assert_eq!((statuses[0].2.runs.len(), statuses[0].2.waiting[0].since), (0, since));
}

#[test]
fn a_full_queue_leaves_room_for_who_gives_back() {
    let mut status = GuardrailStatus::default();
    for index in 0..crate::api::limits::QUEUE {
        let mut statuses = [("staging", 0, status)];
        settle(&mut statuses, &ticket(&format!("run-{index}"), i64::from(index)), &BTreeSet::new());
        let [(_, _, next)] = statuses;
        status = next;
    }
    let mut statuses = [("staging", 0, status)];
    let Next::Wait(waits) = settle(&mut statuses, &ticket("late", 999), &BTreeSet::new()) else { panic!() };
    assert_eq!((waits.ahead, statuses[0].2.waiting.len()), (200, 200));
}

/// What somebody does next in a simulated cluster.
#[derive(Clone, Debug)]
enum Move {
    /// An operator loads a run, and sees which runs are over.
    Load { operator: usize, run: usize },
    /// It reads the run's boards as they are now.
    Read { operator: usize },
    /// It does what follows: a write succeeds only on the version it read.
    Act { operator: usize },
    /// A run at work finishes; nobody gives its slots back.
    Finish { run: usize },
    /// An operator dies and forgets.
    Crash { operator: usize },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        5 => (0..2usize, 0..5usize).prop_map(|(operator, run)| Move::Load { operator, run }),
        5 => (0..2usize).prop_map(|operator| Move::Read { operator }),
        5 => (0..2usize).prop_map(|operator| Move::Act { operator }),
        1 => (0..5usize).prop_map(|run| Move::Finish { run }),
        1 => (0..2usize).prop_map(|operator| Move::Crash { operator }),
    ];
    prop::collection::vec(one, 0..300)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waiting,
    AtWork,
    Over,
}

#[derive(Clone, Debug)]
struct Running {
    ticket: Ticket,
    needs: Vec<usize>,
    version: u64,
    state: State,
}

#[derive(Clone, Debug)]
struct Guarded {
    name: String,
    limit: usize,
    version: u64,
    status: GuardrailStatus,
}

/// What an operator remembers.
#[derive(Clone, Debug)]
struct Memory {
    run: usize,
    version: u64,
    over: BTreeSet<String>,
    boards: Option<Vec<Guarded>>,
}

struct World {
    guardrails: Vec<Guarded>,
    runs: Vec<Running>,
    memories: [Option<Memory>; 2],
}

impl World {
    fn new(limits: &[usize], needs: &[u8], minutes: &[i64]) -> Self {
        let guarded = |(index, limit): (usize, &usize)| Guarded {
            name: format!("g{index}"),
            limit: *limit,
            version: 0,
            status: GuardrailStatus::default(),
        };
        let running = |(index, (needs, minute)): (usize, (&u8, &i64))| {
            let needed: Vec<usize> = (0..limits.len()).filter(|guardrail| needs & (1 << guardrail) != 0).collect();
            let needs = if needed.is_empty() { vec![0] } else { needed };
            Running { ticket: ticket(&format!("run{index}"), *minute), needs, version: 0, state: State::Waiting }
        };
        World {
            guardrails: limits.iter().enumerate().map(guarded).collect(),
            runs: needs.iter().zip(minutes).enumerate().map(running).collect(),
            memories: [None, None],
        }
    }

    fn make(&mut self, step: &Move) -> Result<(), TestCaseError> {
        match step {
            Move::Load { operator, run } => {
                let over = self.runs.iter().filter(|run| run.state == State::Over).map(|run| run.ticket.uid.clone()).collect();
                let found = self.runs.get(*run).filter(|run| run.state == State::Waiting);
                self.memories[*operator] = found.map(|found| Memory { run: *run, version: found.version, over, boards: None });
            }
            Move::Read { operator } => {
                if let Some(memory) = &mut self.memories[*operator] {
                    let needs = &self.runs[memory.run].needs;
                    memory.boards = Some(needs.iter().map(|index| self.guardrails[*index].clone()).collect());
                }
            }
            Move::Act { operator } => {
                if let Some(Memory { run, version, over, boards: Some(boards) }) = self.memories[*operator].take() {
                    self.act(run, version, &over, &boards)?;
                }
            }
            Move::Finish { run } => {
                if let Some(run) = self.runs.get_mut(*run).filter(|run| run.state == State::AtWork) {
                    run.state = State::Over;
                    run.version += 1;
                }
            }
            Move::Crash { operator } => self.memories[*operator] = None,
        }
        self.within_limits()
    }

    fn act(&mut self, run: usize, version: u64, over: &BTreeSet<String>, read: &[Guarded]) -> Result<(), TestCaseError> {
        let boards: Vec<Board> = read.iter().map(|read| board(&read.name, read.limit, &read.status)).collect();
        let is_current = self.runs[run].version == version;
        match turn(&boards, &self.runs[run].ticket, over, now()) {
            Next::Taken if is_current => {
                self.runs[run].state = State::AtWork;
                self.runs[run].version += 1;
            }
            Next::GiveBack { guardrail, status } if is_current => {
                self.runs[run].version += 1;
                self.write(read, &guardrail, status, over)?;
            }
            Next::Write { guardrail, status } => self.write(read, &guardrail, status, over)?,
            Next::Taken | Next::GiveBack { .. } | Next::Wait(_) => {}
        }
        Ok(())
    }

    fn write(
        &mut self,
        read: &[Guarded],
        name: &str,
        status: GuardrailStatus,
        over: &BTreeSet<String>,
    ) -> Result<(), TestCaseError> {
        let read = read.iter().find(|read| read.name == name).expect("it was read");
        let current = self.guardrails.iter_mut().find(|current| current.name == name).expect("it exists");
        if current.version != read.version {
            return Ok(());
        }
        let before: BTreeSet<&String> = current.status.runs.iter().map(|slot| &slot.uid).collect();
        if let Some(new) = status.runs.iter().find(|slot| !before.contains(&slot.uid)) {
            let longer = current
                .status
                .waiting
                .iter()
                .filter(|queued| !over.contains(&queued.uid) && (queued.since, &queued.uid) < (new.since, &new.uid));
            let free = current.limit - before.iter().filter(|uid| !over.contains(**uid)).count();
            prop_assert!(longer.count() < free, "{} overtakes", new.run);
        }
        current.version += 1;
        current.status = status;
        Ok(())
    }

    fn within_limits(&self) -> Result<(), TestCaseError> {
        for (index, Guarded { name, limit, status, version: _ }) in self.guardrails.iter().enumerate() {
            let at_work = self.runs.iter().filter(|run| run.state == State::AtWork && run.needs.contains(&index));
            let at_work: BTreeSet<&String> = at_work.map(|run| &run.ticket.uid).collect();
            let slots: BTreeSet<&String> = status.runs.iter().map(|slot| &slot.uid).collect();
            prop_assert!(slots.len() == status.runs.len() && slots.len() <= *limit, "{name}: {slots:?}");
            prop_assert!(at_work.is_subset(&slots), "{name}: {at_work:?} at work, {slots:?} have slots");
        }
        Ok(())
    }

    /// One operator goes on for everybody in turn; who is at work finishes now and then.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        for round in 0..200 {
            if self.runs.iter().all(|run| run.state == State::Over) {
                return Ok(());
            }
            for run in 0..self.runs.len() {
                self.make(&Move::Load { operator: 0, run })?;
                self.make(&Move::Read { operator: 0 })?;
                self.make(&Move::Act { operator: 0 })?;
            }
            for run in (0..self.runs.len()).filter(|_| round % 5 == 4) {
                self.make(&Move::Finish { run })?;
            }
        }
        Err(TestCaseError::fail(format!("somebody waits for ever: {:#?}", self.runs)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Two operators, stale reads, lost races, crashes at any point, runs that finish and give nothing back:
    /// never more at work than a limit, nobody overtaken, and in the end everybody has had a turn.
    #[test]
    fn slots_are_never_shared_never_leaked_and_come_to_everybody(
        limits in prop::collection::vec(1..3usize, 1..4),
        needs in prop::collection::vec(1..8u8, 1..6),
        minutes in prop::collection::vec(0..4i64, 5),
        moves in moves(),
    ) {
        let mut world = World::new(&limits, &needs, &minutes);
        for step in &moves {
            world.make(step)?;
        }
        world.drain()?;
    }
}
