//! The run's state machine: Waiting, Running, Finished.

use jiff::Timestamp;

use crate::api::{
    Approval, Condition, ConditionStatus, EntryKind, ExperimentPhase, ExperimentStatus, GameDayRunStatus, RunPhase, Verdict,
};

use super::admit::Plan;
use super::bound;
use super::experiment::{self, Context, Out};
use super::gate;
use super::guarded::Against;
use super::{Observation, Run, SlotSeen, Step, limits, record, verdict};

/// Phases change at most so often in one step: each experiment goes through eight, and may bring on another.
const ROUNDS_MAX: usize = 8 * crate::api::limits::EXPERIMENTS as usize + 8;

/// What to do now about this run, given what is seen.
///
/// # Guarantees
/// Total and idempotent: for the same run, observation and time it says the same, and with nothing new to see
/// it changes nothing.
pub fn step(run: &Run, seen: &Observation, now: Timestamp) -> Step {
    let mut state = run.status.clone();
    let mut out = Out::default();
    state.observed_generation = Some(run.generation);
    match (&run.plan, state.phase) {
        (_, RunPhase::Finished) => {
            return Step {
                state: run.status.clone(),
                entries: vec![],
                actions: vec![],
                nodes: Default::default(),
                urgent: false,
                wants_slot: false,
                wake: None,
            };
        }
        (Err(problems), RunPhase::Waiting | RunPhase::Running) => {
            let why = format!("refused: {problems}");
            admitted(&mut state, run, Err(&why), now);
            finish(&mut state, Verdict::Inconclusive, why, now, &mut out);
        }
        (Ok(plan), RunPhase::Waiting) => {
            wait(run, plan, seen, &mut state, now, &mut out);
            if state.phase == RunPhase::Running {
                go_on(run, plan, seen, &mut state, now, &mut out);
            }
        }
        (Ok(plan), RunPhase::Running) => go_on(run, plan, seen, &mut state, now, &mut out),
    }
    note(run, seen, &mut state, &mut out);
    summarise(&mut state);
    let wake = (state.phase != RunPhase::Finished)
        .then(|| out.wake.map_or(now + limits::REFRESH.as_signed(), |wake| wake.min(now + limits::REFRESH.as_signed())));
    Step {
        state,
        entries: out.entries,
        actions: out.actions,
        nodes: out.nodes,
        urgent: out.urgent,
        wants_slot: out.wants_slot,
        wake,
    }
}

fn admitted(state: &mut GameDayRunStatus, run: &Run, answer: Result<(), &str>, now: Timestamp) {
    let (status, reason, message) = match answer {
        Ok(()) => (ConditionStatus::True, "Admitted", "it can be run as written"),
        Err(why) => (ConditionStatus::False, "Refused", why),
    };
    let condition = Condition {
        kind: "Admitted".to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: now,
        observed_generation: Some(run.generation),
    };
    match state.conditions.iter_mut().find(|known| known.kind == condition.kind) {
        Some(known) if known.status == condition.status => {}
        Some(known) => *known = condition,
        None => state.conditions.push(condition),
    }
}

/// Nothing has been touched yet: start, wait, or never start.
fn wait(run: &Run, plan: &Plan, seen: &Observation, state: &mut GameDayRunStatus, now: Timestamp, out: &mut Out) {
    let stop = seen.stop.as_ref().or(run.spec.stop.as_ref());
    if let Some(stop) = stop {
        return finish(state, Verdict::Inconclusive, format!("stopped before it started: {}", stop.reason), now, out);
    }
    if seen.deleted {
        return finish(state, Verdict::Inconclusive, "deleted before it started".to_owned(), now, out);
    }
    let window = run.spec.game_day.schedule.as_ref().zip(run.spec.scheduled_for);
    let closes = window.map(|(schedule, minute)| minute + schedule.start_within.as_signed());
    let may = match &seen.cord {
        Some(cord) => Err(Against::Wait(cord.to_string())),
        None => may_begin(run, plan, seen, now),
    };
    match may {
        Ok(Begins::Now) => {}
        Ok(Begins::WithSlot) => {
            out.wants_slot = true;
            if let SlotSeen::Waiting(why) = &seen.slot {
                wait_for(state, why, closes, now, out);
            }
            return;
        }
        Err(Against::Refuse(why)) => {
            let why = format!("refused: {why}");
            admitted(state, run, Err(&why), now);
            return finish(state, Verdict::Inconclusive, why, now, out);
        }
        Err(Against::Wait(why)) => return wait_for(state, &why, closes, now, out),
    }
    state.phase = RunPhase::Running;
    state.started = Some(now);
    state.why = None;
    state.experiments = plan
        .experiments
        .iter()
        .map(|planned| ExperimentStatus { name: planned.name.clone(), ..ExperimentStatus::default() })
        .collect();
    admitted(state, run, Ok(()), now);
    out.urgent = true;
    for Approval { by, until, note, .. } in seen.people.approvals.iter().filter(|approval| approval.until > now) {
        let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        out.entries.push(record::entry(now, EntryKind::Note, format!("approved by {by} until {until:.0}{note}")));
    }
    out.entries.push(record::entry(now, EntryKind::Started, format!("started: {}", run.spec.game_day.hypothesis)));
}

/// Says what is waited for, until the window of a start closes.
fn wait_for(state: &mut GameDayRunStatus, why: &str, closes: Option<Timestamp>, now: Timestamp, out: &mut Out) {
    if closes.is_some_and(|closes| now > closes) {
        return finish(state, Verdict::Inconclusive, format!("missed its start: {why}"), now, out);
    }
    let why = format!("waiting: {why}");
    if state.why.as_ref() != Some(&why) {
        // Sums change from second to second; what is waited for is an entry once.
        if state.why.is_none() {
            out.entries.push(record::entry(now, EntryKind::Waiting, why.clone()));
            out.urgent = true;
        }
        state.why = Some(why);
    }
    out.wake_at(now + limits::RETRY.as_signed());
}

/// When a run begins that nothing speaks against.
enum Begins {
    Now,
    WithSlot,
}

/// What guardrails say of a beginning. A slot is asked for last.
fn may_begin(run: &Run, plan: &Plan, seen: &Observation, now: Timestamp) -> Result<Begins, Against> {
    let Some(guarded) = &seen.guarded else { return Ok(Begins::Now) };
    guarded.may_begin(run, plan, &seen.people.approvals, now)?;
    if let Some(bound) = &run.spec.bound {
        bound::limits(bound, &guarded.holding(run)).map_err(Against::Refuse)?;
    }
    Ok(if seen.slot == SlotSeen::Taken { Begins::Now } else { Begins::WithSlot })
}

fn go_on(run: &Run, plan: &Plan, seen: &Observation, state: &mut GameDayRunStatus, now: Timestamp, out: &mut Out) {
    let cx = Context { run, plan, seen, now };
    cut(run, seen, state, now, out);
    state.probes = plan.steady_state.iter().zip(&seen.probes).map(|(probe, track)| track.status(probe)).collect();
    for _ in 0..ROUNDS_MAX {
        let mut moved = false;
        for index in 0..plan.experiments.len() {
            moved |= experiment::advance(&cx, state, index, out);
        }
        if !moved {
            break;
        }
        // What was ordered belongs to the phase before.
        out.actions.clear();
    }
    if let Some(refused) = state.experiments.iter().find_map(|status| {
        let why = status.why.as_deref()?;
        why.starts_with("nothing was touched: refused").then(|| format!("{}: {why}", status.name))
    }) {
        admitted(state, run, Err(&refused), now);
    }
    if state.experiments.iter().all(|status| status.phase == ExperimentPhase::Judged) {
        let (verdict, why) = verdict::of_run(&state.experiments);
        finish(state, verdict, why, now, out);
    }
}

/// What people wrote to the run becomes part of its record, once.
fn note(run: &Run, seen: &Observation, state: &mut GameDayRunStatus, out: &mut Out) {
    let notes = if seen.people.notes.len() >= run.spec.people.notes.len() { &seen.people.notes } else { &run.spec.people.notes };
    let known = usize::try_from(state.noted).unwrap_or(0);
    let entries = gate::noted(notes, known);
    if !entries.is_empty() {
        out.urgent = true;
        state.noted = i32::try_from(notes.len()).unwrap_or(i32::MAX);
        out.entries.extend(entries);
    }
}

/// Whatever ends the run early: no further experiment starts, and what is in force is reverted.
fn cut(run: &Run, seen: &Observation, state: &mut GameDayRunStatus, now: Timestamp, out: &mut Out) {
    if state.cut.is_some() {
        return;
    }
    let stop = seen.stop.as_ref().or(run.spec.stop.as_ref());
    let why = if seen.deleted {
        Some("the run was deleted".to_owned())
    } else if let Some(cord) = &seen.cord {
        Some(cord.to_string())
    } else {
        stop.map(|stop| {
            let by = stop.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
            format!("stopped{by}: {}", stop.reason)
        })
    };
    if let Some(why) = why {
        out.entries.push(record::entry(now, EntryKind::Cut, why.clone()));
        out.urgent = true;
        state.cut = Some(why);
    }
}

fn finish(state: &mut GameDayRunStatus, verdict: Verdict, why: String, now: Timestamp, out: &mut Out) {
    out.entries.push(record::entry(now, EntryKind::Finished, format!("{verdict}: {why}")));
    out.urgent = true;
    state.phase = RunPhase::Finished;
    state.verdict = Some(verdict);
    state.why = Some(why);
    state.finished = Some(now);
}

/// The columns of `kubectl get`.
fn summarise(state: &mut GameDayRunStatus) {
    let active: Vec<String> = state
        .experiments
        .iter()
        .filter(|status| !matches!(status.phase, ExperimentPhase::Pending | ExperimentPhase::Judged))
        .map(|status| format!("{} {}", status.name, status.phase))
        .collect();
    let judged = state.experiments.iter().filter(|status| status.phase == ExperimentPhase::Judged).count();
    state.experiment = if active.is_empty() {
        (!state.experiments.is_empty()).then(|| format!("{judged}/{} judged", state.experiments.len()))
    } else {
        Some(active.join(", "))
    };
    let targets = state.experiments.iter().flat_map(|status| &status.targets);
    let (bitten, all) = targets.fold((0, 0), |(bitten, all), target| (bitten + usize::from(target.bite.is_some()), all + 1));
    state.targets = (all > 0).then(|| format!("{bitten}/{all} hit"));
}
