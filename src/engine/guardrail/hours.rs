//! Opening hours and freezes on the wall clock of a time zone, over days on which it is changed: an opening is
//! never longer than written, a freeze never shorter.

use jiff::civil::{self, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::api::{Freeze, MomentRule, TimeOfDay, Weekday, Window};
use crate::engine::schedule;

/// How far ahead an opening is looked for: a year and a month. What opens later does not open.
const HORIZON_DAYS: i32 = 397;

/// The opening hours and freezes of one guardrail, with their zones.
pub struct Hours<'a> {
    pub zone: TimeZone,
    open: &'a [Window],
    freezes: Vec<(&'a Freeze, TimeZone)>,
}

/// What the clock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clock {
    Open,
    /// Outside of all opening hours.
    Closed,
    /// In this freeze, by number.
    Frozen(usize),
}

impl<'a> Hours<'a> {
    /// # Errors
    /// The time zone that is not known.
    pub fn of(rule: &'a MomentRule) -> Result<Self, String> {
        let named = |name: Option<&String>| name.map_or(Ok(TimeZone::UTC), |name| schedule::parse_zone(name));
        let zone = named(rule.time_zone.as_ref())?;
        let freezes = rule.freezes.iter().map(|freeze| {
            let zone = if freeze.time_zone.is_some() { named(freeze.time_zone.as_ref())? } else { zone.clone() };
            Ok((freeze, zone))
        });
        Ok(Hours { open: &rule.open, freezes: freezes.collect::<Result<_, String>>()?, zone })
    }

    pub fn at(&self, now: Timestamp) -> Clock {
        let frozen = self.freezes.iter().position(|(freeze, zone)| is_within(&freeze.when, zone, Bounds::Freeze, now));
        let open = self.open.is_empty() || self.open.iter().any(|window| is_within(window, &self.zone, Bounds::Opening, now));
        match frozen {
            Some(index) => Clock::Frozen(index),
            None if open => Clock::Open,
            None => Clock::Closed,
        }
    }

    /// The first moment from now on at which it is open; `None`: not within a year.
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        self.first(now, |clock| clock == Clock::Open)
    }

    /// The first moment from now on that is wanted. The clock changes its word only at an edge of a window.
    fn first(&self, now: Timestamp, wanted: impl Fn(Clock) -> bool) -> Option<Timestamp> {
        if wanted(self.at(now)) {
            return Some(now);
        }
        let windows = self.open.iter().map(|window| (window, &self.zone, Bounds::Opening));
        let all: Vec<_> = windows.chain(self.freezes.iter().map(|(freeze, zone)| (&freeze.when, zone, Bounds::Freeze))).collect();
        // A whole day later than the date there, so that no edge of a day before can come after those of a day.
        let today = self.zone.to_datetime(now).date();
        let mut edges: Vec<Timestamp> = Vec::new();
        for ahead in -2..=HORIZON_DAYS {
            let Ok(date) = today.checked_add(SignedDuration::from_hours(24 * i64::from(ahead))) else { break };
            for (window, zone, bounds) in &all {
                edges.extend(span(window, zone, *bounds, date).into_iter().flat_map(|(start, end)| [start, end]));
            }
            edges.sort_unstable();
            edges.dedup();
            let sure = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()? - SignedDuration::from_hours(24);
            let done = edges.partition_point(|edge| *edge < sure);
            if let Some(found) = edges.drain(..done).find(|edge| *edge > now && wanted(self.at(*edge))) {
                return Some(found);
            }
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bounds {
    Opening,
    Freeze,
}

fn is_within(window: &Window, zone: &TimeZone, bounds: Bounds, now: Timestamp) -> bool {
    let today = zone.to_datetime(now).date();
    let days = [today.yesterday().ok(), Some(today), today.tomorrow().ok()];
    let mut spans = days.into_iter().flatten().filter_map(|date| span(window, zone, bounds, date));
    spans.any(|(start, end)| start <= now && now < end)
}

/// The stretch of a window that begins on this date.
fn span(window: &Window, zone: &TimeZone, bounds: Bounds, date: civil::Date) -> Option<(Timestamp, Timestamp)> {
    let Window { days, from, to, first_date, last_date } = window;
    let belongs = (days.is_empty() || days.contains(&Weekday::of(date)))
        && first_date.is_none_or(|first| first.0 <= date)
        && last_date.is_none_or(|last| date <= last.0);
    if !belongs {
        return None;
    }
    let start = from.unwrap_or(TimeOfDay::MIDNIGHT);
    let end = to.unwrap_or(TimeOfDay::END);
    let last = if end > start { date } else { date.tomorrow().ok()? };
    let (first_half, second_half) = match bounds {
        // A whole day begins where the day before ended, also where midnight happens twice.
        Bounds::Opening if from.is_none() => (Twice::First, Twice::First),
        Bounds::Opening => (Twice::Second, Twice::First),
        Bounds::Freeze => (Twice::First, Twice::Second),
    };
    Some((moment(start.on(date), zone, first_half)?, moment(end.on(last), zone, second_half)?))
}

/// Which of two, where the clock shows a time twice.
#[derive(Clone, Copy)]
enum Twice {
    First,
    Second,
}

/// When the clock shows this; where it never does, when it is put forward over it.
fn moment(shown: DateTime, zone: &TimeZone, twice: Twice) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(shown);
    match (ambiguous.offset(), twice) {
        (AmbiguousOffset::Unambiguous { .. }, _) => ambiguous.compatible().ok(),
        (AmbiguousOffset::Gap { .. }, _) => {
            let before = ambiguous.earlier().ok()?;
            zone.following(before).next().map(|change| change.timestamp())
        }
        (AmbiguousOffset::Fold { .. }, Twice::First) => ambiguous.earlier().ok(),
        (AmbiguousOffset::Fold { .. }, Twice::Second) => ambiguous.later().ok(),
    }
}

/// `Mon, Tue 09:00–17:00`
pub fn words(window: &Window) -> String {
    let Window { days, from, to, first_date, last_date } = window;
    let mut parts = Vec::new();
    if !days.is_empty() {
        parts.push(days.iter().map(Weekday::to_string).collect::<Vec<_>>().join(", "));
    }
    if let (Some(from), Some(to)) = (from, to) {
        parts.push(format!("{from}–{to}"));
    }
    match (first_date, last_date) {
        (Some(first), Some(last)) if first == last => parts.push(format!("on {first}")),
        (Some(first), Some(last)) => parts.push(format!("from {first} to {last}")),
        (Some(first), None) => parts.push(format!("from {first}")),
        (None, Some(last)) => parts.push(format!("to {last}")),
        (None, None) => {}
    }
    if parts.is_empty() { "always".to_owned() } else { parts.join(" ") }
}
