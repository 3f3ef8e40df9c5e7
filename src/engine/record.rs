//! The record of a run: bounded, in order, the beginning and the end always kept.

use jiff::Timestamp;

use crate::api::{Entry, EntryKind, GameDayRunStatus, limits};

/// Appends entries. Beyond [`limits::ENTRIES`] the middle is left out, and counted.
pub fn append(state: &mut GameDayRunStatus, entries: Vec<Entry>) {
    state.record.extend(entries);
    let over = state.record.len().saturating_sub(limits::ENTRIES);
    if over > 0 {
        let half = limits::ENTRIES / 2;
        state.record.drain(half..half + over);
        state.record_omitted += i64::try_from(over).unwrap_or(i64::MAX);
    }
}

/// What somebody else said, no longer than [`limits::WORDS`].
pub fn words(mut said: String) -> String {
    const CUT: &str = "…";
    if said.len() > limits::WORDS {
        said.truncate(said.floor_char_boundary(limits::WORDS - CUT.len()));
        said.push_str(CUT);
    }
    said
}

/// An entry about the run.
pub fn entry(at: Timestamp, kind: EntryKind, text: impl Into<String>) -> Entry {
    Entry { at, kind, experiment: None, target: None, text: text.into() }
}
