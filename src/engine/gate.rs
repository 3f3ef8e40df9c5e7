//! Gates: a question to people before an experiment. Silence is no. And notes, which become entries of the
//! record once each.

use jiff::{SignedDuration, Timestamp};

use crate::api::{Entry, EntryKind, Gate, GateAnswer, Note};

/// An answer may be dated so much before its question: clocks differ. One given earlier answers nothing.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_secs(60);

/// Where a gate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Somebody said yes.
    Open(String),
    /// Nobody has said anything; silence is no at this time.
    Waiting(Timestamp),
    /// Somebody said no, or nobody anything.
    Closed(String),
}

/// What has become of an experiment's gate since it was asked. The first answer counts; the caller records where
/// the gate stood when it was decided, so that what comes later changes nothing.
pub fn stand(gate: &Gate, experiment: &str, asked: Timestamp, answers: &[GateAnswer], now: Timestamp) -> Stand {
    let until = asked + gate.within.as_signed();
    let mut own = answers.iter().filter(|answer| answer.experiment == experiment && answer.at + CLOCKS_DIFFER >= asked);
    match own.next() {
        Some(GateAnswer { experiment: _, yes, by, at: _, note }) => {
            let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            if *yes { Stand::Open(format!("{by} said yes{note}")) } else { Stand::Closed(format!("{by} said no{note}")) }
        }
        None if now < until => Stand::Waiting(until),
        None => Stand::Closed(format!("nobody answered \"{}\" within {}", gate.ask, gate.within)),
    }
}

/// The entries of the notes that are not in the record yet: of this list, which only grows, those after the
/// first so many.
pub fn noted(notes: &[Note], recorded: usize) -> Vec<Entry> {
    let entry = |note: &Note| Entry {
        at: note.at,
        kind: EntryKind::Note,
        experiment: None,
        target: None,
        text: format!("{}: {}", note.by, note.text),
    };
    notes.iter().skip(recorded).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Duration;

    fn at(minute: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(1_000 + minute)
    }

    fn answer(experiment: &str, yes: bool, minute: i64) -> GateAnswer {
        GateAnswer { experiment: experiment.to_owned(), yes, by: "ada".to_owned(), at: at(minute), note: None }
    }

    #[test]
    fn silence_is_no_and_the_first_answer_counts() {
        let gate = Gate { ask: "Is on-call looking?".to_owned(), within: Duration::from_secs(600) };
        let stand = |answers: &[GateAnswer], minute| stand(&gate, "lose-a-pod", at(0), answers, at(minute));
        assert_eq!(stand(&[], 9), Stand::Waiting(at(10)));
        assert_eq!(stand(&[], 10), Stand::Closed("nobody answered \"Is on-call looking?\" within 10m".to_owned()));
        assert_eq!(stand(&[answer("lose-a-pod", true, 3)], 4), Stand::Open("ada said yes".to_owned()));
        let both = [answer("lose-a-pod", false, 3), answer("lose-a-pod", true, 4)];
        assert_eq!(stand(&both, 5), Stand::Closed("ada said no".to_owned()));
        assert_eq!(stand(&[answer("other", true, 3)], 4), Stand::Waiting(at(10)));
        assert_eq!(stand(&[answer("lose-a-pod", true, -2)], 4), Stand::Waiting(at(10)), "before it was asked");
        assert_eq!(stand(&[answer("lose-a-pod", true, -1)], 4), Stand::Open("ada said yes".to_owned()), "clocks differ");
    }

    #[test]
    fn a_note_is_recorded_once() {
        let note = |text: &str| Note { by: "ada".to_owned(), at: at(0), text: text.to_owned() };
        let notes = [note("pager went off"), note("and stopped")];
        let texts = |recorded| noted(&notes, recorded).into_iter().map(|entry| entry.text).collect::<Vec<_>>();
        assert_eq!(texts(0), ["ada: pager went off", "ada: and stopped"]);
        assert_eq!(texts(1), ["ada: and stopped"]);
        assert!(texts(2).is_empty());
    }
}
