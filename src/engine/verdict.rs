//! Judging: Failed when the hypothesis broke, Passed only with complete evidence (P6), everything else
//! Inconclusive, each with one sentence why.

use crate::api::{ExperimentStatus, ProbeStatus, Verdict};

/// The judgement of an experiment that was injected.
pub fn judge(status: &ExperimentStatus, probes: &[ProbeStatus]) -> (Verdict, String) {
    if let Some(breach) = &status.breach {
        return (Verdict::Failed, breach.clone());
    }
    if let Some(doubt) = &status.doubt {
        return (Verdict::Inconclusive, doubt.clone());
    }
    let targets = status.targets.len();
    let bitten = status.targets.iter().filter(|target| target.bite.is_some()).count();
    let clean = status.targets.iter().filter(|target| target.clean.is_some()).count();
    if targets == 0 || bitten < targets {
        return (Verdict::Inconclusive, format!("no proof that the fault took effect: {bitten} of {targets} targets bitten"));
    }
    if clean < targets {
        return (Verdict::Inconclusive, format!("not proven clean: {clean} of {targets} targets read back"));
    }
    let parts = [(status.saw.before, "before"), (status.saw.during, "during"), (status.saw.after, "after")];
    if let Some((_, part)) = parts.iter().find(|(saw, _)| !saw) {
        return (Verdict::Inconclusive, format!("no probe evidence {part} the fault"));
    }
    let closest = probes.iter().filter_map(|probe| Some((probe, probe.margin.as_ref()?))).next();
    let margin = closest.map(|(probe, margin)| format!("; {}: {margin}", probe.name)).unwrap_or_default();
    (Verdict::Passed, format!("{bitten} of {targets} targets bitten and clean, steady before, during and after{margin}"))
}

/// The worst of the experiments, with its reason.
pub fn of_run(experiments: &[ExperimentStatus]) -> (Verdict, String) {
    let judged = experiments.iter().filter_map(|status| Some((status.verdict?, status)));
    match judged.min_by_key(|(verdict, _)| *verdict) {
        None => (Verdict::Inconclusive, "no experiment was judged".to_owned()),
        Some((Verdict::Passed, _)) => {
            let count = experiments.len();
            (
                Verdict::Passed,
                if count == 1 { "the experiment passed".to_owned() } else { format!("all {count} experiments passed") },
            )
        }
        Some((verdict @ (Verdict::Failed | Verdict::Inconclusive), status)) => {
            (verdict, format!("{}: {}", status.name, status.why.as_deref().unwrap_or("no reason was recorded")))
        }
    }
}
