use std::fmt;
use std::str::FromStr;

use jiff::civil;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::says;

/// A stretch of time that comes back: on these days, between these times, within these dates. What is absent
/// does not narrow it; a stretch over midnight belongs to the day on which it begins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.from) == has(self.to)", says::FROM_AND_TO))]
#[x_kube(validation = ("!has(self.from) || !has(self.to) || self.from != self.to", says::FROM_IS_TO))]
#[x_kube(validation = ("!has(self.firstDate) || !has(self.lastDate) || self.firstDate <= self.lastDate", says::LAST_BEFORE_FIRST))]
pub struct Window {
    /// Absent or empty: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Weekday>,
    /// From this time on, as a clock on the wall shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TimeOfDay>,
    /// Up to this time, which no longer belongs to it. Before `from`: on the next day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<TimeOfDay>,
    /// The first day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_date: Option<Date>,
    /// The last day, which still belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_date: Option<Date>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    pub fn of(date: civil::Date) -> Self {
        match date.weekday() {
            civil::Weekday::Monday => Weekday::Mon,
            civil::Weekday::Tuesday => Weekday::Tue,
            civil::Weekday::Wednesday => Weekday::Wed,
            civil::Weekday::Thursday => Weekday::Thu,
            civil::Weekday::Friday => Weekday::Fri,
            civil::Weekday::Saturday => Weekday::Sat,
            civil::Weekday::Sunday => Weekday::Sun,
        }
    }
}

impl fmt::Display for Weekday {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A time on the wall clock, `00:00` to `24:00`, the end of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay {
    minutes: u16,
}

const DAY_MINUTES: u16 = 24 * 60;

impl TimeOfDay {
    pub const MIDNIGHT: TimeOfDay = TimeOfDay { minutes: 0 };
    pub const END: TimeOfDay = TimeOfDay { minutes: DAY_MINUTES };

    /// This time of a day; `24:00` is midnight of the next.
    pub fn on(self, date: civil::Date) -> civil::DateTime {
        let (date, minutes) =
            if self.minutes == DAY_MINUTES { (date.tomorrow().unwrap_or(date), 0) } else { (date, self.minutes) };
        let part = |value: u16| i8::try_from(value).unwrap_or(0);
        date.at(part(minutes / 60), part(minutes % 60), 0, 0)
    }
}

/// The text was not a time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{says}, not {0:?}", says = says::TIME_OF_DAY)]
pub struct NotATime(String);

impl FromStr for TimeOfDay {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let not = || NotATime(text.to_owned());
        let (hours, minutes) = text.split_once(':').ok_or_else(not)?;
        let number = |digits: &str| -> Option<u16> {
            (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
        };
        match (number(hours), number(minutes)) {
            (Some(hours @ 0..=23), Some(minutes @ 0..=59)) => Ok(TimeOfDay { minutes: hours * 60 + minutes }),
            (Some(24), Some(0)) => Ok(TimeOfDay::END),
            (Some(_), Some(_)) | (None, _) | (_, None) => Err(not()),
        }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

small_schema!(TimeOfDay, {
    "type": "string",
    "maxLength": 5,
    "x-kubernetes-validations": [{
        "rule": "self.matches('^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$')",
        "message": says::TIME_OF_DAY,
    }],
});

/// A day of the calendar, `2026-12-24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub civil::Date);

/// The text was not a date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{says}, not {0:?}", says = says::DATE)]
pub struct NotADate(String);

impl FromStr for Date {
    type Err = NotADate;

    fn from_str(text: &str) -> Result<Self, NotADate> {
        let not = || NotADate(text.to_owned());
        // jiff reads more forms than the schema lets through.
        if text.len() != 10 {
            return Err(not());
        }
        civil::Date::strptime("%Y-%m-%d", text).map(Date).map_err(|_| not())
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// Not `format: date`: a rule would see a timestamp and could not bound its own cost.
small_schema!(Date, {
    "type": "string",
    "maxLength": 10,
    "x-kubernetes-validations": [{"rule": IS_A_DATE, "message": says::DATE}],
});

/// With the short months and the leap years: what the API server lets through, the parser must read.
const IS_A_DATE: &str = "self.matches('^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$') \
    && !self.matches('-(02|04|06|09|11)-31$') && !self.endsWith('-02-30') \
    && (!self.endsWith('-02-29') || (int(self.substring(0, 4)) % 4 == 0 \
    && (int(self.substring(0, 4)) % 100 != 0 || int(self.substring(0, 4)) % 400 == 0)))";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_dates_are_read_back_as_written() {
        for text in ["00:00", "09:30", "23:59", "24:00"] {
            assert_eq!(text.parse::<TimeOfDay>().unwrap().to_string(), text);
        }
        assert_eq!("2026-12-24".parse::<Date>().unwrap().to_string(), "2026-12-24");
    }

    #[test]
    fn what_is_not_a_time_or_a_date_is_refused_in_words() {
        for text in ["9:30", "24:01", "12:60", "25:00", "", "0900", "+9:30", "09:3x"] {
            assert!(text.parse::<TimeOfDay>().unwrap_err().to_string().starts_with(says::TIME_OF_DAY), "{text}");
        }
        for text in ["2026-02-30", "24.12.2026", "2026-1-1", "", "20261224xx"] {
            assert!(text.parse::<Date>().unwrap_err().to_string().starts_with(says::DATE), "{text}");
        }
    }
}
