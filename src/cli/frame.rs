//! What a person following a run wants to see, at this moment: a pure picture of the run.

use jiff::Timestamp;

use crate::api::{
    Duration, EntryKind, Experiment, ExperimentPhase, ExperimentStatus, GameDayRun, GameDayRunStatus, ProbeStatus, RunPhase,
    TargetStatus, Verdict, limits,
};
use crate::engine;
use crate::report::{self, milliseconds};

/// Targets shown of one experiment; the rest is a number.
const TARGETS_SHOWN: usize = 6;
/// The last entries of the record, for what happened just now.
const ENTRIES_SHOWN: usize = 5;

/// The run in lines of at most `width` characters.
pub fn frame(run: &GameDayRun, now: Timestamp, width: usize) -> Vec<String> {
    let nothing = GameDayRunStatus::default();
    let status = run.status.as_ref().unwrap_or(&nothing);
    let mut lines = vec![headline(run, status, now), format!("  {}", run.spec.game_day.hypothesis), String::new()];
    for experiment in &run.spec.game_day.experiments {
        let done = status.experiments.iter().find(|done| done.name == experiment.name);
        lines.extend(experiment_lines(run, experiment, done, now));
    }
    if !status.probes.is_empty() {
        lines.push(String::new());
        lines.extend(probe_table(run, status).into_iter().map(|line| format!("  {line}")));
    }
    let shown = status.record.len().saturating_sub(ENTRIES_SHOWN);
    if let Some(last) = status.record.get(shown..).filter(|last| !last.is_empty()) {
        lines.push(String::new());
        lines.extend(last.iter().map(|entry| format!("  {}", report::entry(run, entry))));
    }
    lines.into_iter().map(|line| cut(&line, width)).collect()
}

fn headline(run: &GameDayRun, status: &GameDayRunStatus, now: Timestamp) -> String {
    let name = report::name(run);
    let elapsed = report::since(run, now);
    match (status.phase, status.verdict) {
        (RunPhase::Waiting, _) => {
            let why = status.why.as_deref().unwrap_or("waiting for the operator");
            format!("{name}  {elapsed}  Waiting: {why}")
        }
        (RunPhase::Running, _) => match &status.cut {
            Some(cut) => format!("{name}  {elapsed}  Running, cut short: {cut}"),
            None => format!("{name}  {elapsed}  Running"),
        },
        (RunPhase::Finished, Some(verdict)) => format!("{name}  {elapsed}  {verdict}: {}", status.why.as_deref().unwrap_or("")),
        (RunPhase::Finished, None) => format!("{name}  {elapsed}  Finished"),
    }
}

fn experiment_lines(run: &GameDayRun, written: &Experiment, done: Option<&ExperimentStatus>, now: Timestamp) -> Vec<String> {
    let nothing = ExperimentStatus::default();
    let done = done.unwrap_or(&nothing);
    let mark = match (done.phase, done.verdict) {
        (ExperimentPhase::Judged, Some(Verdict::Passed)) => "✓",
        (ExperimentPhase::Judged, Some(Verdict::Failed)) => "✗",
        (ExperimentPhase::Judged, Some(Verdict::Inconclusive) | None) => "?",
        (ExperimentPhase::Pending, _) => "·",
        (
            ExperimentPhase::Baseline
            | ExperimentPhase::Arming
            | ExperimentPhase::Injecting
            | ExperimentPhase::Holding
            | ExperimentPhase::Reverting
            | ExperimentPhase::Recovering,
            _,
        ) => "▶",
    };
    let mut lines = vec![format!("{mark} {}  {}", written.name, doing(run, written, done, now))];
    // What is over is told in one line.
    if done.phase != ExperimentPhase::Judged {
        lines.extend(done.targets.iter().rev().take(TARGETS_SHOWN).map(|target| format!("    {}", target_line(target))));
        let more = done.targets.len().saturating_sub(TARGETS_SHOWN);
        if more > 0 {
            lines.push(format!("    and {more} before"));
        }
    }
    lines
}

/// The phase, the time left in it, and what happens next.
fn doing(run: &GameDayRun, written: &Experiment, done: &ExperimentStatus, now: Timestamp) -> String {
    let spec = &run.spec.game_day;
    let left = |from: Option<Timestamp>, length: Duration| {
        let left = from.map(|from| Duration::between(now, from + length.as_signed()));
        left.map_or_else(String::new, |left| format!("{} s left, ", left.as_millis().div_ceil(1_000)))
    };
    match done.phase {
        ExperimentPhase::Pending => format!("{} on {}", report::fault(&written.fault), report::targets(&written.targets)),
        ExperimentPhase::Baseline => {
            format!("Baseline: {}then {} is chosen", left(done.since, spec.baseline), report::targets(&written.targets))
        }
        ExperimentPhase::Arming => {
            format!("Arming: at most {}then {}", left(done.since, engine::limits::ARMING), report::fault(&written.fault))
        }
        ExperimentPhase::Injecting => {
            format!("Injecting: {}until it bites, then it is held", left(done.injected, written.hold))
        }
        ExperimentPhase::Holding => format!("Holding: {}then it is reverted", left(done.injected, written.hold)),
        ExperimentPhase::Reverting => {
            format!("Reverting: at most {}then the steady state must return", left(done.since, engine::limits::REVERTING))
        }
        ExperimentPhase::Recovering => format!("Recovering: at most {}then it is judged", left(done.since, spec.recovery)),
        ExperimentPhase::Judged => {
            let verdict = done.verdict.map_or_else(|| "no verdict".to_owned(), |verdict| verdict.to_string());
            format!("{verdict}: {}", done.why.as_deref().unwrap_or("no reason was recorded"))
        }
    }
}

fn target_line(target: &TargetStatus) -> String {
    let node = target.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let state = match (&target.problem, &target.bite, &target.clean) {
        (Some(problem), _, None) => problem.clone(),
        (_, _, Some(clean)) => format!("hit and clean: {}", clean.what),
        (None, Some(bite), None) => format!("hit: {}", bite.what),
        (None, None, None) => "ordered, not hit yet".to_owned(),
    };
    format!("{}/{}{node}  {state}", target.kind, target.name)
}

fn probe_table(run: &GameDayRun, status: &GameDayRunStatus) -> Vec<String> {
    let header = ["PROBE", "", "SAMPLES", "BAD", "P50", "P99", "MARGIN", "LAST"].map(str::to_owned).to_vec();
    let rows = status.probes.iter().map(|probe| {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), milliseconds);
        vec![
            probe.name.clone(),
            probe_state(run, probe),
            probe.samples.to_string(),
            probe.bad.to_string(),
            ms(probe.p50_ms),
            ms(probe.p99_ms),
            probe.margin.clone().unwrap_or_else(|| "-".to_owned()),
            probe.saw.clone().unwrap_or_else(|| "no sample yet".to_owned()),
        ]
    });
    report::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// `good`, `bad 2/3`: how near a breach is.
fn probe_state(run: &GameDayRun, probe: &ProbeStatus) -> String {
    let written = run.spec.game_day.steady_state.iter().find(|written| written.name == probe.name);
    match (probe.last, probe.streak) {
        (None, _) => "…".to_owned(),
        (Some(_), 0) => "good".to_owned(),
        (Some(_), streak) => format!("bad {streak}/{}", written.map_or(1, |written| written.breach_after_count())),
    }
}

fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// What has been told of a run in plain lines, so that each thing is told once.
#[derive(Default)]
pub struct Told {
    entries: i64,
    probes: std::collections::BTreeMap<String, String>,
    waiting: Option<String>,
}

impl Told {
    /// The lines that are news.
    pub fn news(&mut self, run: &GameDayRun) -> Vec<String> {
        let Some(status) = &run.status else { return Vec::new() };
        let mut news = Vec::new();
        let omitted = status.record_omitted;
        let first_half = i64::try_from(limits::ENTRIES / 2).unwrap_or(i64::MAX);
        for (index, entry) in (0i64..).zip(&status.record) {
            // Its number in the whole record, of which the middle may be left out.
            let number = if index < first_half { index } else { index + omitted };
            if number >= self.entries {
                news.push((entry.at, report::entry(run, entry)));
                if entry.kind == EntryKind::Waiting {
                    self.waiting = status.why.clone();
                }
            }
        }
        self.entries = omitted + i64::try_from(status.record.len()).unwrap_or(i64::MAX);
        if status.phase == RunPhase::Waiting && status.why.is_some() && self.waiting != status.why {
            self.waiting = status.why.clone();
            news.extend(status.why.clone().map(|why| (Timestamp::MAX, why)));
        }
        for probe in &status.probes {
            let state = if probe.last.is_none() {
                ""
            } else if probe.streak > 0 {
                "bad"
            } else {
                "good"
            };
            let before = self.probes.insert(probe.name.clone(), state.to_owned()).unwrap_or_default();
            if before != state
                && let Some(at) = probe.last
            {
                let margin = probe.margin.as_ref().map(|margin| format!("; {margin}")).unwrap_or_default();
                let saw = probe.saw.as_deref().unwrap_or_default();
                let (since, state) = (report::since(run, at), probe_state(run, probe));
                news.push((at, format!("{since:>8}  Probe     {}: {state}: {saw}{margin}", probe.name)));
            }
        }
        news.sort_by_key(|(at, _)| *at);
        news.into_iter().map(|(_, line)| line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The run of the golden report, as it was at a moment: what had not happened yet is taken out.
    fn run_at(phase: ExperimentPhase, since: &str) -> GameDayRun {
        let mut run: GameDayRun = serde_saphyr::from_str(include_str!("../../tests/offline/golden/run.yaml")).unwrap();
        let status = run.status.as_mut().unwrap();
        status.phase = RunPhase::Running;
        (status.verdict, status.why, status.cut, status.finished) = (None, None, None, None);
        let second = &mut status.experiments[1];
        second.phase = phase;
        second.since = Some(since.parse().unwrap());
        (second.verdict, second.why) = (None, None);
        second.targets[0].clean = None;
        status.experiments.truncate(2);
        status.record.truncate(6);
        run
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn it_shows_the_phase_who_is_hit_each_probe_the_time_left_and_what_comes_next() {
        let run = run_at(ExperimentPhase::Holding, "2026-11-24T10:00:42Z");
        let lines = frame(&run, at("2026-11-24T10:00:51.2Z"), 100);
        let wanted = "\
shop/checkout-x7k2p  +51.2s  Running
  Checkout answers within 300 ms while one of its pods dies | or payments is gone.

✓ lose-a-pod  Passed: 1 of 1 targets bitten and clean, steady before, during and after; checkout: 2…
▶ no-payments  Holding: 50 s left, then it is reverted
    Deployment/payments  hit: 0 replicas observed
· evict-one  podEvict, every 20s on 34 % of the pods with app=checkout

  PROBE                  SAMPLES  BAD  P50      P99     MARGIN                LAST
  checkout         good  57       4    23.4 ms  212 ms  12 of 300 ms left     200 in 24 ms
  enough-replicas  good  57       0    -        -       0 above the 2 needed  3 of 3 ready
";
        assert_eq!(lines[..11].join("\n") + "\n", wanted);
        assert!(lines.last().is_some_and(|line| line.contains("scale ordered")), "{lines:?}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let run = run_at(ExperimentPhase::Recovering, "2026-11-24T10:00:46.6Z");
        for width in [1, 20, 79, 200] {
            let lines = frame(&run, at("2026-11-24T10:00:50Z"), width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{lines:#?}");
        }
    }

    #[test]
    fn what_stands_in_the_way_is_shown_beside_the_target() {
        let mut run = run_at(ExperimentPhase::Injecting, "2026-11-24T10:00:41.2Z");
        let target = &mut run.status.as_mut().unwrap().experiments[1].targets[0];
        (target.bite, target.problem) = (None, Some("refused: the disruption budget allows none".to_owned()));
        let lines = frame(&run, at("2026-11-24T10:00:45Z"), 120);
        assert!(lines.contains(&"    Deployment/payments  refused: the disruption budget allows none".to_owned()), "{lines:#?}");
        assert!(lines.contains(&"▶ no-payments  Injecting: 57 s left, until it bites, then it is held".to_owned()), "{lines:#?}");
    }

    #[test]
    fn in_plain_lines_each_thing_is_told_once() {
        let whole = run_at(ExperimentPhase::Holding, "2026-11-24T10:00:42Z");
        let mut told = Told::default();
        let mut early = whole.clone();
        let status = early.status.as_mut().unwrap();
        status.record.truncate(2);
        status.probes.truncate(1);
        assert_eq!(told.news(&early).len(), 3, "two entries and a probe's first word");
        assert_eq!(told.news(&early), Vec::<String>::new());
        assert_eq!(told.news(&whole).len(), 5, "four entries and the other probe");
        let mut worse = whole.clone();
        let probe = &mut worse.status.as_mut().unwrap().probes[0];
        (probe.streak, probe.saw) = (2, Some("502, not 200".to_owned()));
        assert_eq!(told.news(&worse), ["  +57.0s  Probe     checkout: bad 2/3: 502, not 200; 12 of 300 ms left"]);
        assert_eq!(told.news(&worse), Vec::<String>::new());
    }

    #[test]
    fn entries_that_left_the_middle_of_the_record_are_not_told_again() {
        let mut run = run_at(ExperimentPhase::Holding, "2026-11-24T10:00:42Z");
        let status = run.status.as_mut().unwrap();
        let entry = status.record[0].clone();
        status.record = vec![entry.clone(); limits::ENTRIES];
        let mut told = Told::default();
        told.news(&run);
        engine::record::append(run.status.as_mut().unwrap(), vec![entry.clone(), entry]);
        assert_eq!(told.news(&run).len(), 2);
    }
}
