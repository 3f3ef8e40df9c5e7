//! One experiment's way through its phases. Nothing is touched before Injecting, and anything not known to be
//! clean is Reverting, whatever ended it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::api::{
    Duration, Entry, EntryKind, ExperimentPhase, ExperimentStatus, FaultKind, GameDayRunStatus, Gate, OnBreach, Probe, Proof,
    TargetStatus, Verdict,
};

use super::admit::{Plan, Planned};
use super::bound;
use super::fault::{self, Bite};
use super::gate::{self, Stand};
use super::guard::{self, Chosen};
use super::guarded::{self, Against};
use super::held::{self, Lacks};
use super::permission;
use super::{Action, Answer, Observation, Outcome, Performed, Run, Track, limits, verdict};

/// What does not change during a step.
pub(super) struct Context<'a> {
    pub run: &'a Run,
    pub plan: &'a Plan,
    pub seen: &'a Observation,
    pub now: Timestamp,
}

impl<'a> Context<'a> {
    fn probes(&self) -> impl Iterator<Item = (&'a Probe, &'a Track)> {
        self.plan.steady_state.iter().zip(&self.seen.probes)
    }

    /// Whether every probe of the spec is watched at all, and has given a sample at or after this moment.
    fn all_seen_since(&self, since: Timestamp) -> bool {
        self.seen.probes.len() == self.plan.steady_state.len()
            && self.probes().all(|(_, track)| track.last_seen().is_some_and(|last| last >= since))
    }

    fn patience(&self) -> Duration {
        self.plan.steady_state.iter().map(Probe::patience).max().unwrap_or(Duration::ZERO)
    }
}

/// What a step collects.
#[derive(Default)]
pub(super) struct Out {
    pub entries: Vec<Entry>,
    pub actions: Vec<Action>,
    pub nodes: BTreeMap<String, BTreeSet<FaultKind>>,
    pub urgent: bool,
    pub wants_slot: bool,
    pub wake: Option<Timestamp>,
}

impl Out {
    pub fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// Moves one experiment on. Returns whether its phase changed: then it, and others, may move further at once.
pub(super) fn advance(cx: &Context, state: &mut GameDayRunStatus, index: usize, out: &mut Out) -> bool {
    let planned = &cx.plan.experiments[index];
    let before = state.experiments[index].phase;
    match before {
        ExperimentPhase::Pending => pending(cx, planned, state, index, out),
        ExperimentPhase::Baseline => baseline(cx, state, index, out),
        ExperimentPhase::Arming => arming(cx, planned, state, index, out),
        ExperimentPhase::Injecting | ExperimentPhase::Holding => in_force(cx, planned, state, index, out),
        ExperimentPhase::Reverting => reverting(cx, planned, state, index, out),
        ExperimentPhase::Recovering => recovering(cx, state, index, out),
        ExperimentPhase::Judged => {}
    }
    state.experiments[index].phase != before
}

fn enter(cx: &Context, status: &mut ExperimentStatus, phase: ExperimentPhase, out: &mut Out) {
    status.phase = phase;
    status.since = Some(cx.now);
    out.urgent = true;
}

fn say(cx: &Context, status: &ExperimentStatus, kind: EntryKind, text: impl Into<String>, out: &mut Out) {
    out.entries.push(Entry { at: cx.now, kind, experiment: Some(status.name.clone()), target: None, text: text.into() });
}

fn say_of(cx: &Context, experiment: &str, target: &TargetStatus, kind: EntryKind, text: impl Into<String>, out: &mut Out) {
    let target = Some(fault::id(target).to_string());
    out.entries.push(Entry { at: cx.now, kind, experiment: Some(experiment.to_owned()), target, text: text.into() });
}

fn close(cx: &Context, status: &mut ExperimentStatus, verdict: Verdict, why: String, out: &mut Out) {
    say(cx, status, EntryKind::Judged, format!("{verdict}: {why}"), out);
    status.verdict = Some(verdict);
    status.why = Some(why);
    enter(cx, status, ExperimentPhase::Judged, out);
}

/// Nothing was touched: why this experiment ends before it began.
fn end_untouched(cx: &Context, status: &mut ExperimentStatus, why: String, out: &mut Out) {
    close(cx, status, Verdict::Inconclusive, format!("nothing was touched: {why}"), out);
}

fn pending(cx: &Context, planned: &Planned, state: &mut GameDayRunStatus, index: usize, out: &mut Out) {
    let ready = planned.after.iter().all(|before| state.experiments[*before].phase == ExperimentPhase::Judged);
    let cut = state.cut.clone();
    let status = &mut state.experiments[index];
    match cut {
        Some(why) => end_untouched(cx, status, why, out),
        None if ready
            && let Some(gate) = &planned.gate
            && status.gate.is_none() =>
        {
            ask_people(cx, status, gate, out)
        }
        None if ready => {
            enter(cx, status, ExperimentPhase::Baseline, out);
            say(cx, status, EntryKind::Phase, format!("baseline: steady for {}, or nothing is injected", cx.plan.baseline), out);
        }
        None => {}
    }
}

/// Waits for somebody's yes.
fn ask_people(cx: &Context, status: &mut ExperimentStatus, gate: &Gate, out: &mut Out) {
    if status.asked.is_none() {
        say(cx, status, EntryKind::Waiting, format!("asks: {} (within {})", gate.ask, gate.within), out);
        out.urgent = true;
    }
    let asked = *status.asked.get_or_insert(cx.now);
    match gate::stand(gate, &status.name, asked, &cx.seen.people.answers, cx.now) {
        Stand::Open(who) => {
            say(cx, status, EntryKind::Note, who.clone(), out);
            status.gate = Some(who);
            out.urgent = true;
            out.wake_at(cx.now);
        }
        Stand::Waiting(until) => out.wake_at(until),
        Stand::Closed(why) => end_untouched(cx, status, why, out),
    }
}

/// What speaks against touching anything, before and while arming.
fn unsteady(cx: &Context) -> Option<String> {
    let bad = cx.probes().find(|(probe, track)| track.breach(probe).is_some());
    bad.map(|(probe, track)| format!("the steady state is not met before the fault: {}: {}", probe.name, track.said()))
}

fn baseline(cx: &Context, state: &mut GameDayRunStatus, index: usize, out: &mut Out) {
    let cut = state.cut.clone();
    let status = &mut state.experiments[index];
    if let Some(why) = cut.or_else(|| unsteady(cx)) {
        return end_untouched(cx, status, why, out);
    }
    let since = status.since.unwrap_or(cx.now);
    let length = cx.plan.baseline;
    let fresh = cx.now - cx.patience().as_signed();
    let steady = |track: &Track| {
        length == Duration::ZERO
            || (track.last_seen().is_some_and(|last| last >= fresh)
                && track.good_since().is_some_and(|since| cx.now.duration_since(since) >= length.as_signed()))
    };
    let watched = cx.seen.probes.len() == cx.plan.steady_state.len();
    if watched && cx.probes().all(|(_, track)| steady(track)) {
        status.saw.before = cx.probes().all(|(_, track)| track.last_seen().is_some_and(|last| last >= fresh));
        return enter(cx, status, ExperimentPhase::Arming, out);
    }
    // A new leader has to see for itself: its time begins with its own first samples, which come soon.
    let own = cx.probes().map(|(_, track)| track.began().unwrap_or(cx.now.min(since + limits::ARMING.as_signed()))).max();
    let from = own.map_or(since, |own| own.max(since));
    let deadline = from + length.saturating_mul(2).saturating_add(cx.patience()).as_signed();
    if cx.now >= deadline {
        let worst = cx.probes().find(|(_, track)| !steady(track));
        let saw =
            worst.map_or("the probes were not watched".to_owned(), |(probe, track)| format!("{}: {}", probe.name, track.said()));
        return end_untouched(cx, status, format!("the steady state did not hold for {length}: {saw}"), out);
    }
    out.wake_at(deadline);
    for (_, track) in cx.probes() {
        if let Some(since) = track.good_since()
            && since + length.as_signed() > cx.now
        {
            out.wake_at(since + length.as_signed());
        }
    }
}

fn arming(cx: &Context, planned: &Planned, state: &mut GameDayRunStatus, index: usize, out: &mut Out) {
    if let Some(why) = state.cut.clone().or_else(|| unsteady(cx)) {
        return end_untouched(cx, &mut state.experiments[index], why, out);
    }
    let waits = match arm(cx, planned, state, index) {
        Armed::Chosen(round) => match agents(cx, planned, &round, out) {
            Lacks::Nothing => return inject(cx, planned, state, index, round, out),
            Lacks::Agents(why) => Err(why),
            Lacks::Cannot(why) => Ok(why),
        },
        Armed::Refused(why) => Ok(why),
        Armed::Wait(why) => Err(why),
    };
    let waits = match waits {
        Ok(why) => {
            let status = &mut state.experiments[index];
            say(cx, status, EntryKind::Refused, why.clone(), out);
            return end_untouched(cx, status, format!("refused: {why}"), out);
        }
        Err(why) => why,
    };
    let status = &mut state.experiments[index];
    let deadline = status.since.unwrap_or(cx.now) + limits::ARMING.as_signed();
    if cx.now >= deadline {
        return end_untouched(cx, status, format!("waited {} in vain: {waits}", limits::ARMING), out);
    }
    out.wake_at(deadline.min(cx.now + limits::RETRY.as_signed()));
}

/// Asks for the agents that a round needs, and says what is still missing.
fn agents(cx: &Context, planned: &Planned, round: &Round, out: &mut Out) -> Lacks {
    match planned.kind.held() {
        None => Lacks::Nothing,
        Some(held) => {
            out.nodes.extend(held::nodes(cx.plan, &round.victims));
            held::lacks(cx.plan, held, &round.victims, cx.seen)
        }
    }
}

enum Armed {
    Chosen(Round),
    Wait(String),
    Refused(String),
}

/// Who is hit now, as [`Chosen::Targets`] says it.
struct Round {
    victims: Vec<fault::Candidate>,
    candidates: usize,
    before: usize,
    sum: String,
}

fn arm(cx: &Context, planned: &Planned, state: &GameDayRunStatus, index: usize) -> Armed {
    if !cx.seen.synced {
        return Armed::Wait("the cluster has not been read yet".to_owned());
    }
    for permission in &planned.permissions {
        match cx.seen.permissions.get(permission) {
            Some(Answer::Allowed) => {}
            Some(Answer::Denied(why)) => {
                let account = &cx.plan.service_account;
                let because = if why.is_empty() { String::new() } else { format!(" ({why})") };
                let consent = if permission.group == permission::FAULTS {
                    format!(
                        "; gameday allow {} --service-account {account} --faults {} writes the role that grants it",
                        cx.run.id.namespace, permission.resource
                    )
                } else {
                    String::new()
                };
                return Armed::Refused(format!("the service account {account} may not {permission}{because}{consent}"));
            }
            None => return Armed::Wait(format!("no answer yet whether {} may {permission}", cx.plan.service_account)),
        }
    }
    let round = u32::try_from(state.experiments[index].rounds).unwrap_or(u32::MAX);
    match guard::choose(cx.run, cx.plan, &state.experiments, index, round, cx.seen) {
        Chosen::Targets { victims, candidates, before, sum } => {
            let may = match &cx.seen.guarded {
                Some(guarded) => guarded.may_hit(cx.run, index, &victims, candidates, &cx.seen.people.approvals, cx.now),
                None => Ok(()),
            };
            let planned_so = match cx.run.spec.bound.as_ref().filter(|_| round == 0) {
                Some(bound) => bound::victims(bound, &planned.name, victims.iter().map(|victim| &victim.target)),
                None => Ok(()),
            };
            if let Err(why) = planned_so {
                return Armed::Refused(why);
            }
            match may {
                Ok(()) => Armed::Chosen(Round { victims, candidates, before, sum }),
                Err(Against::Wait(why)) => Armed::Wait(why),
                Err(Against::Refuse(why)) => Armed::Refused(why),
            }
        }
        Chosen::Wait(why) => Armed::Wait(why),
        Chosen::Refused(why) => Armed::Refused(why),
    }
}

/// Records the targets of a round. They are performed only after that record is written.
fn inject(cx: &Context, planned: &Planned, state: &mut GameDayRunStatus, index: usize, round: Round, out: &mut Out) {
    let Round { victims, candidates, before, sum } = round;
    let within = |victim: &fault::Candidate| -> Vec<i32> {
        let among = cx
            .plan
            .experiments
            .iter()
            .enumerate()
            .filter(|(number, other)| *number == index || fault::is_among(&other.candidates, victim, cx.seen));
        among.filter_map(|(number, _)| i32::try_from(number).ok()).collect()
    };
    let status = &mut state.experiments[index];
    let injected = *status.injected.get_or_insert(cx.now);
    status.rounds += 1;
    status.last_round = Some(cx.now);
    status.candidates = Some(i32::try_from(candidates).unwrap_or(i32::MAX));
    status.ready_before.get_or_insert(i32::try_from(before).unwrap_or(i32::MAX));
    if let Some(guarded) = &cx.seen.guarded {
        let new = guarded::images(guarded, &victims);
        let known: BTreeSet<String> = std::mem::take(&mut status.images).into_iter().chain(new).collect();
        status.images = known.into_iter().take(crate::api::limits::IMAGES as usize).collect();
    }
    for victim in victims {
        let target = TargetStatus {
            kind: victim.target.kind,
            name: victim.target.name.clone(),
            uid: victim.target.uid.clone(),
            node: victim.node.clone(),
            recorded: cx.now,
            latest_end: injected + planned.hold.as_signed(),
            weight: i32::try_from(victim.weight).unwrap_or(i32::MAX),
            within: within(&victim),
            undo: victim.undo.clone(),
            bite: None,
            clean: None,
            problem: None,
        };
        say_of(cx, &planned.name, &target, EntryKind::Ordered, format!("{} ordered: {sum}", planned.kind.name()), out);
        status.targets.push(target);
    }
    enter(cx, status, ExperimentPhase::Injecting, out);
}

fn in_force(cx: &Context, planned: &Planned, state: &mut GameDayRunStatus, index: usize, out: &mut Out) {
    look(cx, planned, &mut state.experiments[index], out);
    breach(cx, state, index, None, out);
    let cut = state.cut.clone();
    let status = &mut state.experiments[index];
    let injected = status.injected.unwrap_or(cx.now);
    let end = injected + planned.hold.as_signed();
    // Before its first bite the fault is only ordered: what is seen then says nothing about it.
    let first_bite = status.targets.iter().filter_map(|target| Some(target.bite.as_ref()?.at)).min();
    if first_bite.is_some_and(|bite| cx.all_seen_since(bite)) {
        status.saw.during = true;
    }
    if let Some(why) = cut {
        return begin_reverting(cx, status, Some(format!("cut short: {why}")), out);
    }
    if let Some(why) = withdrawn(cx, planned, index, status, out) {
        return begin_reverting(cx, status, Some(why), out);
    }
    if let Some(why) = blind(cx, injected, out) {
        return begin_reverting(cx, status, Some(why), out);
    }
    let lost = status
        .targets
        .iter()
        .filter(|target| target.clean.is_none())
        .find_map(|target| fault::lost(&planned.kind, target, &cx.run.id.uid, cx.seen, cx.now));
    if let Some(why) = lost {
        return begin_reverting(cx, status, Some(why), out);
    }
    if cx.now >= end {
        let waiting = status.targets.iter().find(|target| target.bite.is_none());
        let doubt = waiting.map(|target| {
            let why = target.problem.as_deref().unwrap_or("not bitten");
            format!("no proof that the fault took effect on {} within {}: {why}", fault::id(target), planned.hold)
        });
        return begin_reverting(cx, status, doubt, out);
    }
    out.wake_at(end);
    if status.phase == ExperimentPhase::Injecting && status.targets.iter().all(|target| target.bite.is_some()) {
        enter(cx, status, ExperimentPhase::Holding, out);
        say(cx, status, EntryKind::Phase, format!("all bitten; held until {:.0} s from now", seconds(cx.now, end)), out);
    }
    if status.phase == ExperimentPhase::Holding
        && let Some(every) = planned.kind.every()
    {
        let due = status.last_round.unwrap_or(cx.now) + every.as_signed();
        if status.targets.len() >= limits::TARGETS_IN_ALL {
            // The record is full: it is held to its end without a further round.
        } else if cx.now < due {
            out.wake_at(due);
        } else if let Armed::Chosen(round) = arm(cx, planned, state, index) {
            return inject(cx, planned, state, index, round, out);
        } else {
            out.wake_at(cx.now + limits::RETRY.as_signed());
        }
    }
    let status = &state.experiments[index];
    for target in status.targets.iter().filter(|target| target.bite.is_none()) {
        let Some(what) = fault::inject(&planned.kind, target, &cx.run.id.uid, cx.seen, cx.now) else { continue };
        let action = Action { experiment: planned.name.clone(), target: fault::id(target), what, latest_end: target.latest_end };
        order(cx, action, out);
    }
}

/// What was allowed at first and is not any more: the right, or what a guardrail asks.
fn withdrawn(cx: &Context, planned: &Planned, index: usize, status: &ExperimentStatus, out: &mut Out) -> Option<String> {
    for permission in &planned.permissions {
        if let Some(Answer::Denied(_)) = cx.seen.permissions.get(permission) {
            return Some(format!("the service account {} may not {permission} any more", cx.plan.service_account));
        }
    }
    let guarded = cx.seen.guarded.as_ref()?;
    out.wake_at(cx.now + limits::GUARD.as_signed());
    guarded.may_stay(cx.run, index, status, &cx.seen.people.approvals, cx.now).err()
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Gives an order, unless it was accepted already or was tried just now.
fn order(cx: &Context, action: Action, out: &mut Out) {
    let reverting = action.reverts();
    match cx.seen.outcomes.get(&action.target.uid) {
        Some(Performed { at, reverting: was_reverting, outcome }) if *was_reverting == reverting => {
            let again = *at + limits::RETRY.as_signed();
            let accepted = *outcome == Outcome::Done && !reverting;
            if accepted {
                return;
            }
            if cx.now < again {
                return out.wake_at(again);
            }
        }
        Some(_) | None => {}
    }
    out.wake_at(cx.now + limits::RETRY.as_signed());
    out.actions.push(action);
}

/// Looks at every target: has it bitten, and what stands in the way.
fn look(cx: &Context, planned: &Planned, status: &mut ExperimentStatus, out: &mut Out) {
    for target in status.targets.iter_mut().filter(|target| target.bite.is_none()) {
        match fault::bite(&planned.kind, target, &cx.run.id.uid, cx.seen) {
            Bite::Yes(what) => {
                say_of(cx, &planned.name, target, EntryKind::Bite, what.clone(), out);
                target.problem = None;
                target.bite = Some(Proof { at: cx.now, what });
                // What was deleted cannot be held: with its bite it is also over.
                target.clean = fault::revert(&planned.kind, target, &cx.run.id.uid)
                    .is_none()
                    .then(|| Proof { at: cx.now, what: "the pod is gone, and nothing else was changed".to_owned() });
            }
            Bite::NotYet(what) | Bite::Lost(what) | Bite::Refused(what) => {
                let problem = match cx.seen.outcomes.get(&target.uid) {
                    Some(Performed { reverting: false, outcome: Outcome::Refused(why), at: _ }) => format!("refused: {why}"),
                    Some(Performed { reverting: false, outcome: Outcome::Failed(why), at: _ }) => format!("{what}; {why}"),
                    Some(Performed { reverting: true, outcome: _, at: _ })
                    | Some(Performed { reverting: false, outcome: Outcome::Done, at: _ })
                    | None => what,
                };
                if target.problem.as_ref() != Some(&problem) {
                    if problem.starts_with("refused") {
                        say_of(cx, &planned.name, target, EntryKind::Refused, problem.clone(), out);
                        out.urgent = true;
                    }
                    target.problem = Some(problem);
                }
            }
        }
    }
}

/// Why nothing more of this experiment may be injected, as the probes say now: its hypothesis is broken, and the run
/// is to be aborted then. A round of many targets takes its time; the next step, which records the breach, comes after it.
pub fn broken(run: &Run, experiment: &str, probes: &[Track]) -> Option<String> {
    let plan = run.plan.as_ref().ok().filter(|plan| plan.on_breach == OnBreach::Abort)?;
    let injected = run.status.experiments.iter().find(|status| status.name == experiment)?.injected?;
    plan.steady_state.iter().zip(probes).find_map(|(probe, track)| {
        let (_, said) = track.breach_since(probe, injected)?;
        Some(format!("the hypothesis broke: {}: {said}", probe.name))
    })
}

/// Sees and records a breach, once. With `onBreach: Abort` it cuts the run.
///
/// `until`: only one whose first bad sample started by then, when the fault is gone already: it began under it.
fn breach(cx: &Context, state: &mut GameDayRunStatus, index: usize, until: Option<Timestamp>, out: &mut Out) {
    let status = &mut state.experiments[index];
    if status.breach.is_some() {
        return;
    }
    let injected = status.injected.unwrap_or(cx.now);
    let broken = cx.probes().find_map(|(probe, track)| {
        let (first_bad, said) = track.breach_since(probe, injected)?;
        until.is_none_or(|until| first_bad <= until).then_some((probe, (first_bad, said)))
    });
    let Some((probe, (first_bad, said))) = broken else { return };
    let text = format!("{}: {} bad in a row, the last: {said}", probe.name, probe.breach_after);
    say(cx, status, EntryKind::Breach, text.clone(), out);
    status.breach = Some(text);
    status.first_bad = Some(first_bad);
    status.breached = Some(cx.now);
    status.time_to_detect = status.injected.map(|injected| Duration::between(injected, cx.now));
    // Nothing was left to abort.
    status.time_to_abort = until.map(|_| Duration::ZERO);
    out.urgent = true;
    match cx.plan.on_breach {
        OnBreach::Abort => {
            let why = format!("{} broke the hypothesis", status.name);
            state.cut.get_or_insert(why);
        }
        OnBreach::Continue => {}
    }
}

/// A probe that has said nothing for longer than a breach takes, since the fault may be in force.
fn blind(cx: &Context, since: Timestamp, out: &mut Out) -> Option<String> {
    if cx.seen.probes.len() != cx.plan.steady_state.len() {
        return Some("blind: the probes are not watched".to_owned());
    }
    for (probe, track) in cx.probes() {
        if let Some((length, said)) = track.silence_since(probe, since) {
            return Some(format!("blind: {} saw nothing for {length}: {said}", probe.name));
        }
        let last = track.last_seen().map_or(since, |last| last.max(since));
        let limit = last + probe.patience().as_signed();
        if cx.now > limit {
            let length = Duration::between(last, cx.now);
            return Some(format!("blind: {} saw nothing for {length}: {}", probe.name, track.said()));
        }
        out.wake_at(limit + jiff::SignedDuration::from_millis(1));
    }
    None
}

fn begin_reverting(cx: &Context, status: &mut ExperimentStatus, doubt: Option<String>, out: &mut Out) {
    let why = match (&status.breach, &doubt) {
        (Some(_), _) => "the hypothesis broke".to_owned(),
        (None, Some(doubt)) => doubt.clone(),
        (None, None) => "held to the end".to_owned(),
    };
    say(cx, status, EntryKind::Phase, format!("reverting: {why}"), out);
    if status.breach.is_none() {
        status.doubt = status.doubt.take().or(doubt);
    }
    status.reverted = Some(cx.now);
    enter(cx, status, ExperimentPhase::Reverting, out);
}

fn reverting(cx: &Context, planned: &Planned, state: &mut GameDayRunStatus, index: usize, out: &mut Out) {
    breach(cx, state, index, None, out);
    let status = &mut state.experiments[index];
    let since = status.reverted.unwrap_or(cx.now);
    look_clean(cx, planned, status, since, out);
    if status.targets.iter().all(|target| target.clean.is_some()) {
        let held = status.targets.iter().filter(|target| target.undo.is_some()).map(|target| target.latest_end).min();
        if let Some(late) = held.map(|end| Duration::between(end, cx.now)).filter(|late| *late > limits::LATE) {
            status.doubt.get_or_insert(format!("held {late} longer than ordered: no undo was confirmed before"));
        }
        status.clean = Some(cx.now);
        status.time_to_abort = status.breached.map(|breached| Duration::between(breached, cx.now));
        say(
            cx,
            status,
            EntryKind::Clean,
            format!("{} of {} targets read back clean", status.targets.len(), status.targets.len()),
            out,
        );
        return enter(cx, status, ExperimentPhase::Recovering, out);
    }
    for target in status.targets.iter().filter(|target| target.clean.is_none()) {
        if let Some(what) = fault::revert(&planned.kind, target, &cx.run.id.uid) {
            let action =
                Action { experiment: planned.name.clone(), target: fault::id(target), what, latest_end: target.latest_end };
            order(cx, action, out);
        }
    }
    let deadline = since + limits::REVERTING.as_signed();
    // A new leader may come after that time: nothing is given up that it has not tried itself.
    let untried = status.targets.iter().any(|target| {
        let tried = cx.seen.outcomes.get(&target.uid).is_some_and(|performed| performed.reverting);
        target.clean.is_none() && target.undo.is_some() && !tried
    });
    if cx.now < deadline || untried {
        return out.wake_at(cx.now + limits::RETRY.as_signed());
    }
    let left: Vec<String> = status
        .targets
        .iter()
        .filter(|target| target.clean.is_none())
        .map(|target| format!("{} ({})", fault::id(target), target.problem.as_deref().unwrap_or("not read back")))
        .collect();
    let unproven = format!("not proven clean after {}: {}", limits::REVERTING, left.join(", "));
    status.doubt.get_or_insert(unproven);
    judge(cx, state, index, out);
}

/// Looks for read-back proof that nothing is left, and for a bite that came late.
fn look_clean(cx: &Context, planned: &Planned, status: &mut ExperimentStatus, since: Timestamp, out: &mut Out) {
    for target in status.targets.iter_mut().filter(|target| target.clean.is_none()) {
        let settled = settled(cx, target, since);
        // A pod that goes after all is missing until it is replaced, and counts in the blast radius.
        if target.bite.is_none()
            && fault::revert(&planned.kind, target, &cx.run.id.uid).is_none()
            && let Bite::Yes(what) = fault::bite(&planned.kind, target, &cx.run.id.uid, cx.seen)
        {
            say_of(cx, &planned.name, target, EntryKind::Bite, format!("late: {what}"), out);
            target.bite = Some(Proof { at: cx.now, what });
        }
        if let Some(what) = fault::clean(&planned.kind, target, &cx.run.id.uid, cx.seen, settled) {
            target.problem = None;
            target.clean = Some(Proof { at: cx.now, what });
            // What was measured has grown while it was held.
            if planned.kind.held().is_some()
                && let Bite::Yes(what) = fault::bite(&planned.kind, target, &cx.run.id.uid, cx.seen)
                && let Some(bite) = &mut target.bite
            {
                bite.what = what;
            }
            continue;
        }
        if let Some(Performed { reverting: true, outcome: Outcome::Refused(why) | Outcome::Failed(why), at: _ }) =
            cx.seen.outcomes.get(&target.uid)
        {
            target.problem = Some(why.clone());
        }
    }
    out.wake_at(cx.now + limits::RETRY.as_signed());
}

/// Whether no injection of ours can still be on its way to a target: it was answered, or the last that had no
/// answer, or the process that may have sent it, is long enough ago.
fn settled(cx: &Context, target: &TargetStatus, since: Timestamp) -> bool {
    let long_ago = |at: Timestamp| cx.now.duration_since(at) >= limits::RETRY.as_signed();
    match cx.seen.outcomes.get(&target.uid) {
        Some(Performed { outcome: Outcome::Done | Outcome::Refused(_), at: _, reverting: _ }) => true,
        Some(Performed { outcome: Outcome::Failed(_), at, reverting: _ }) => long_ago(*at),
        None => long_ago(since),
    }
}

fn recovering(cx: &Context, state: &mut GameDayRunStatus, index: usize, out: &mut Out) {
    let gone = state.experiments[index].clean;
    breach(cx, state, index, gone, out);
    // Who stopped the run or deleted it wants it over; only a breach is worth the measurement.
    if let Some(why) = &state.cut
        && (state.experiments[index].breach.is_none() || cx.seen.deleted)
    {
        let doubt = format!("cut short: {why}");
        state.experiments[index].doubt.get_or_insert(doubt);
        return judge(cx, state, index, out);
    }
    let status = &mut state.experiments[index];
    let clean = status.clean.unwrap_or(cx.now);
    if cx.all_seen_since(clean) {
        status.saw.after = true;
    }
    if status.saw.after && cx.probes().all(|(probe, track)| track.is_steady(probe)) {
        let steady = cx.probes().filter_map(|(_, track)| track.good_since()).max().unwrap_or(cx.now).max(clean);
        status.recovered = Some(steady);
        status.time_to_recover = Some(Duration::between(clean, steady));
        say(
            cx,
            status,
            EntryKind::Steady,
            format!("steady again {} after the fault was gone", Duration::between(clean, steady)),
            out,
        );
        return judge(cx, state, index, out);
    }
    let deadline = clean + cx.plan.recovery.as_signed();
    let returned = |track: &Track| track.good_since().is_some_and(|since| since <= deadline);
    let latest = deadline + cx.patience().as_signed();
    if cx.now > deadline && !cx.probes().all(|(_, track)| returned(track)) || cx.now > latest {
        let worst = cx.probes().find(|(probe, track)| !returned(track) || !track.is_steady(probe));
        let saw = worst.map_or_else(String::new, |(probe, track)| format!(": {}: {}", probe.name, track.said()));
        if cx.all_seen_since(clean) && status.breach.is_none() {
            let text = format!("the steady state did not return within {}{saw}", cx.plan.recovery);
            say(cx, status, EntryKind::Breach, text.clone(), out);
            status.breach = Some(text);
        } else {
            status.doubt.get_or_insert(format!("blind: no probe evidence after the fault{saw}"));
        }
        return judge(cx, state, index, out);
    }
    out.wake_at(if cx.now > deadline { latest } else { deadline } + jiff::SignedDuration::from_millis(1));
}

fn judge(cx: &Context, state: &mut GameDayRunStatus, index: usize, out: &mut Out) {
    let (verdict, why) = verdict::judge(&state.experiments[index], &state.probes);
    close(cx, &mut state.experiments[index], verdict, why, out);
}
