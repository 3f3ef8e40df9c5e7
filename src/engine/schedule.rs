//! When scheduled runs start: cron in a time zone.
//!
//! The zones are the ones built in, never the machine's, so that `gameday check` at a desk and the operator in
//! its container say the same.
//!
//! On days with a clock change each start falls exactly once: where the clock skips its minute, at the end of
//! the gap; where the clock shows it twice, the first time. A pattern of every hour goes by the hours that
//! pass: it starts in both of a repeated hour and not in one that is skipped.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use crate::api::{Duration, IfRunning, MissedStart, Schedule};

/// Missed starts listed, the newest; the others are counted.
pub const LISTED_MAX: usize = 10;
/// Due starts counted in one decision: a week of every minute. Beyond it [`Decision::uncounted`] is set.
pub const COUNTED_MAX: usize = 10_080;

/// A schedule that can be followed.
#[derive(Clone, Debug)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
    start_within: Duration,
    if_running: IfRunning,
}

/// What else a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    pub game_day: &'a str,
    pub suspended: bool,
    /// The run under way, scheduled or not.
    pub active: Option<&'a str>,
    /// The names of all its runs that exist. A start whose run exists was made, whatever was recorded since.
    pub runs: &'a BTreeSet<String>,
}

/// What to do about the starts that are due.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Start the run of this scheduled minute now: [`run_name`].
    pub start: Option<Timestamp>,
    /// Ask the run under way to stop. The start stays due, and undecided, until that run is over.
    pub stop_active: bool,
    /// Starts that were not made and will not be, oldest first: the newest [`LISTED_MAX`].
    pub missed: Vec<MissedStart>,
    /// How many were missed, those listed included.
    pub missed_count: i64,
    /// There were more than [`COUNTED_MAX`]: the count is too low.
    pub uncounted: bool,
    /// The newest minute that is decided hereby, to be recorded and given as `since` next time. `None`: nothing
    /// was decided.
    pub decided: Option<Timestamp>,
    /// The next start to come.
    pub next: Option<Timestamp>,
    /// Decide again at this time at the latest.
    pub wake: Option<Timestamp>,
}

impl Timetable {
    /// # Errors
    /// What is wrong with the pattern or the zone.
    pub fn new(schedule: &Schedule) -> Result<Self, String> {
        let Schedule { cron, time_zone, start_within, if_running } = schedule;
        Ok(Timetable {
            cron: parse_cron(cron)?,
            zone: parse_zone(time_zone)?,
            start_within: *start_within,
            if_running: *if_running,
        })
    }

    /// What to do about the starts after `since` (the minute decided last, or the creation) up to now.
    ///
    /// # Guarantees
    /// A minute that was decided is never decided again, also when the clock goes back. At most one start, the
    /// newest that is due, and only within `startWithin` of its minute. The work is bounded by
    /// [`COUNTED_MAX`].
    pub fn decide(&self, since: Timestamp, now: Timestamp, circumstances: Circumstances<'_>) -> Decision {
        let Circumstances { game_day, suspended, active, runs } = circumstances;
        let next = self.next(since.max(now));
        let mut decision = Decision { next, wake: next, ..Decision::default() };
        let mut due = Newest::new(self, now).take_while(|at| *at > since);
        let Some(newest) = due.next() else { return decision };

        decision.decided = Some(newest);
        let late = |at: Timestamp| now.duration_since(at) > self.start_within.as_signed();
        if runs.contains(&run_name(game_day, newest)) {
            // Made by an operator that could not record it.
        } else if suspended {
            decision.miss(newest, "the game day was suspended".to_owned());
        } else {
            match (active, self.if_running) {
                (None, _) if late(newest) => decision.miss(newest, self.not_started()),
                (None, _) => decision.start = Some(newest),
                (Some(run), IfRunning::Skip) => decision.miss(newest, format!("the run {run} was still under way")),
                (Some(run), IfRunning::Replace) if late(newest) => {
                    decision.miss(newest, format!("the run {run} was not over within {}", self.start_within));
                }
                (Some(_), IfRunning::Replace) => {
                    decision.stop_active = true;
                    decision.decided = None;
                    let missed_at = newest + self.start_within.as_signed() + SignedDuration::from_millis(1);
                    decision.wake = Some(next.map_or(missed_at, |next| next.min(missed_at)));
                }
            }
        }
        for (index, at) in due.enumerate() {
            if index >= COUNTED_MAX {
                decision.uncounted = true;
                break;
            }
            decision.decided = decision.decided.or(Some(at));
            if runs.contains(&run_name(game_day, at)) {
                continue;
            }
            decision.miss(
                at,
                if suspended {
                    "the game day was suspended".to_owned()
                } else if late(at) {
                    self.not_started()
                } else {
                    format!("the start at {newest} was due as well, and only the newest is made")
                },
            );
        }
        decision.missed.reverse();
        decision
    }

    /// The first start after a moment.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if self.is_every_hour() {
            return self.cron.find_next_occurrence(&after.to_zoned(self.zone.clone()), false).ok().map(|at| at.timestamp());
        }
        let mut civil = self.zone.to_datetime(after);
        loop {
            civil = self.cron.find_next_occurrence(&civil, false).ok()?;
            let at = self.falls(civil)?;
            if at > after {
                return Some(at);
            }
        }
    }

    fn not_started(&self) -> String {
        format!("no operator started it within {}", self.start_within)
    }

    fn is_every_hour(&self) -> bool {
        self.cron.pattern.hours.values().len() == 24
    }

    /// When a minute of the clock falls, exactly once. Never earlier for a later minute, so that the order of
    /// the clock is the order of time.
    fn falls(&self, civil: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
            AmbiguousOffset::Gap { .. } => {
                let before = ambiguous.earlier().ok()?;
                self.zone.following(before).next().map(|change| change.timestamp())
            }
        }
    }
}

impl Decision {
    fn miss(&mut self, at: Timestamp, why: String) {
        self.missed_count += 1;
        if self.missed.len() < LISTED_MAX {
            self.missed.push(MissedStart { at, why });
        }
    }
}

/// The starts up to a moment, newest first, each once.
struct Newest<'a> {
    timetable: &'a Timetable,
    cursor: Option<Cursor>,
    now: Timestamp,
    last: Option<Timestamp>,
}

enum Cursor {
    /// By the hours that pass.
    Passing { at: jiff::Zoned, inclusive: bool },
    /// By the clock.
    Clock { at: DateTime, inclusive: bool },
}

impl<'a> Newest<'a> {
    fn new(timetable: &'a Timetable, now: Timestamp) -> Self {
        let zone = &timetable.zone;
        let cursor = if timetable.is_every_hour() {
            Some(Cursor::Passing { at: now.to_zoned(zone.clone()), inclusive: true })
        } else {
            let clock = zone.to_datetime(now);
            // Where the clock shows this hour for the second time, all minutes of it have fallen.
            let end = match zone.to_ambiguous_timestamp(clock).offset() {
                AmbiguousOffset::Fold { before, after } => clock.checked_add(after.until(before).abs()).ok(),
                AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => Some(clock),
            };
            end.map(|at| Cursor::Clock { at, inclusive: true })
        };
        Newest { timetable, cursor, now, last: None }
    }

    /// The start before the cursor, which moves there.
    fn step_back(&mut self) -> Option<Timestamp> {
        let cron = &self.timetable.cron;
        let (at, cursor) = match self.cursor.take()? {
            Cursor::Passing { at, inclusive } => {
                let found = cron.find_previous_occurrence(&at, inclusive).ok()?;
                (found.timestamp(), Cursor::Passing { at: found, inclusive: false })
            }
            Cursor::Clock { at, inclusive } => {
                let found = cron.find_previous_occurrence(&at, inclusive).ok()?;
                (self.timetable.falls(found)?, Cursor::Clock { at: found, inclusive: false })
            }
        };
        self.cursor = Some(cursor);
        Some(at)
    }
}

impl Iterator for Newest<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        loop {
            let at = self.step_back()?;
            if at <= self.now && self.last.is_none_or(|last| at < last) {
                self.last = Some(at);
                return Some(at);
            }
        }
    }
}

/// The name of the run of a scheduled minute: the same minute gives the same name, so that it runs once.
pub fn run_name(game_day: &str, minute: Timestamp) -> String {
    format!("{game_day}-{}", minute.strftime("%Y%m%d%H%M"))
}

const SHOWN: &str = "a pattern has five fields, minute hour day-of-month month day-of-week, like 0 10 * * TUE";
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31 or L"),
    ("month", "1 to 12 or JAN to DEC"),
    ("day of week", "0 to 7 or SUN to SAT"),
];

/// A cron pattern of five fields.
///
/// # Errors
/// What is wrong, with the field.
pub fn parse_cron(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let fields: Vec<&str> = text.split_whitespace().collect();
    if text.trim_start().starts_with('@') {
        return parser
            .parse(text)
            .map_err(|_| format!("{text:?} is none of @hourly, @daily, @weekly, @monthly, @yearly; otherwise {SHOWN}"));
    }
    if fields.len() != FIELDS.len() {
        return Err(format!("{text:?} has {} fields; {SHOWN}", fields.len()));
    }
    for (position, (field, (name, range))) in fields.iter().zip(FIELDS).enumerate() {
        let mut alone = ["*"; 5];
        alone[position] = field;
        // The parser takes an empty item of a list for nothing at all.
        if field.split(',').any(str::is_empty) || parser.parse(&alone.join(" ")).is_err() {
            return Err(format!(
                "the {name}, {field:?}, is not {range}, nor *, a list (1,2), a range (1-5) or a step (*/2, 1-5/2); {SHOWN}"
            ));
        }
    }
    let cron = parser.parse(text).map_err(|error| format!("{text:?}: {error}; {SHOWN}"))?;
    // The calendar repeats after 400 years, and the search ends in the year 5000.
    match cron.find_next_occurrence(&jiff::civil::date(4599, 1, 1).at(0, 0, 0, 0), true) {
        Ok(_) => Ok(cron),
        Err(CronError::TimeSearchLimitExceeded) => Err(format!("{text:?} is a day that never comes; {SHOWN}")),
        Err(error) => Err(format!("{text:?}: {error}; {SHOWN}")),
    }
}

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// An IANA time zone, by its name.
///
/// # Errors
/// There is none of that name; with those that may be meant.
pub fn parse_zone(text: &str) -> Result<TimeZone, String> {
    ZONES.get(text).map_err(|_| {
        let city = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase().replace(' ', "_");
        let meant: Vec<String> = ZONES
            .available()
            .map(|name| name.to_string())
            .filter(|name| differ_little(&city(name), &city(text)) && text.len() > 3)
            .take(3)
            .collect();
        match meant.as_slice() {
            [] => format!("no time zone is named {text:?}; write one like UTC or Europe/Berlin"),
            meant => format!("no time zone is named {text:?}; is {} meant?", meant.join(" or ")),
        }
    })
}

/// Whether two words are equal but for one letter more, less or other.
fn differ_little(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    let same_start = short.bytes().zip(long.bytes()).take_while(|(a, b)| a == b).count();
    let same_end = short.bytes().rev().zip(long.bytes().rev()).take_while(|(a, b)| a == b).count();
    long.len() - short.len() <= 1 && same_start + same_end + 1 >= long.len()
}

#[cfg(test)]
mod tests;
