/// What a rule says. Ordered: the strictest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Says {
    Allow,
    /// Not now; it may pass by itself.
    Wait,
    /// Never, as it is written.
    Refuse,
}

/// One rule's answer, with the sum that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub guardrail: String,
    /// As it is written in a guardrail: `reach.workload`.
    pub rule: &'static str,
    /// Whom it is about: `Deployment shop/checkout`. Empty where it is about the run.
    pub subject: String,
    /// `2 of 3 ready replicas would remain; the guardrail asks for 3`
    pub sum: String,
    pub way_out: String,
    pub says: Says,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "guardrail {}, {}", self.guardrail, self.rule)?;
        if !self.subject.is_empty() {
            write!(f, ", {}", self.subject)?;
        }
        write!(f, ": {}", self.sum)
    }
}

/// The strictest answer; of none, Allow.
pub fn verdict(answers: &[Answer]) -> Says {
    answers.iter().map(|answer| answer.says).max().unwrap_or(Says::Allow)
}

/// Why not, for people: every rule that says no, then what the other caps came to, then the way out. `None`
/// where all allow.
pub fn sentence(answers: &[Answer]) -> Option<String> {
    let strictest = verdict(answers);
    if strictest == Says::Allow {
        return None;
    }
    let against: Vec<&Answer> = answers.iter().filter(|answer| answer.says == strictest).collect();
    let mut text = against.iter().take(SHOWN_MAX).map(|answer| answer.to_string()).collect::<Vec<_>>().join("; ");
    if against.len() > SHOWN_MAX {
        text.push_str(&format!("; and {} more", against.len() - SHOWN_MAX));
    }
    if against.iter().any(|answer| answer.rule.starts_with("reach.")) {
        let others = answers.iter().filter(|answer| answer.says < strictest && answer.rule.starts_with("reach."));
        for answer in others.take(SHOWN_MAX) {
            text.push_str(&format!("; {}", answer));
        }
    }
    let ways: std::collections::BTreeSet<&str> =
        against.iter().take(SHOWN_MAX).map(|answer| answer.way_out.as_str()).filter(|way| !way.is_empty()).collect();
    if !ways.is_empty() {
        text.push_str(&format!(". Way out: {}", ways.into_iter().collect::<Vec<_>>().join("; or ")));
    }
    Some(text)
}

/// Answers written out in one sentence: more than a few are not read, and a condition's message has 32 KiB.
const SHOWN_MAX: usize = 4;
