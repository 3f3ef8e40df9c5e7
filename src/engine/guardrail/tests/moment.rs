use proptest::prelude::*;

use super::*;
use crate::api::{Date, MomentRule, TimeOfDay, Weekday, Window};
use crate::engine::guardrail::hours::{Clock, Hours};

fn rule(yaml: &str) -> MomentRule {
    serde_saphyr::from_str(yaml).unwrap()
}

fn clock(yaml: &str, at: &str) -> Clock {
    Hours::of(&rule(yaml)).unwrap().at(time(at))
}

const OFFICE: &str = r#"{timeZone: Europe/Berlin, open: [{days: [Mon, Tue, Wed, Thu, Fri], from: "09:00", to: "17:00"}]}"#;

#[test]
fn opening_hours_are_those_of_the_wall_clock() {
    // 2026-11-24 is a Tuesday; Berlin is an hour ahead of UTC in winter and two in summer.
    let table = [
        ("2026-11-24T07:59:59Z", Clock::Closed),
        ("2026-11-24T08:00:00Z", Clock::Open),
        ("2026-11-24T15:59:59Z", Clock::Open),
        ("2026-11-24T16:00:00Z", Clock::Closed),
        ("2026-11-28T12:00:00Z", Clock::Closed),
        ("2026-07-14T07:00:00Z", Clock::Open),
        ("2026-07-14T15:00:00Z", Clock::Closed),
    ];
    for (at, expected) in table {
        assert_eq!(clock(OFFICE, at), expected, "{at}");
    }
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
    let night = r#"{open: [{days: [Fri], from: "22:00", to: "06:00"}]}"#;
    for (at, expected) in [
        ("2026-11-27T21:59:00Z", Clock::Closed),
        ("2026-11-27T22:00:00Z", Clock::Open),
        ("2026-11-28T05:59:00Z", Clock::Open),
        ("2026-11-28T06:00:00Z", Clock::Closed),
        ("2026-11-28T22:30:00Z", Clock::Closed),
        ("2026-11-27T03:00:00Z", Clock::Closed),
    ] {
        assert_eq!(clock(night, at), expected, "{at}");
    }
}

#[test]
fn a_freeze_wins_over_opening_hours_and_counts_both_its_days() {
    let yaml =
        r#"{timeZone: Europe/Berlin, freezes: [{reason: Christmas, when: {firstDate: "2026-12-23", lastDate: "2026-12-27"}}]}"#;
    for (at, expected) in [
        ("2026-12-22T22:59:59Z", Clock::Open),
        ("2026-12-22T23:00:00Z", Clock::Frozen(0)),
        ("2026-12-27T22:59:59Z", Clock::Frozen(0)),
        ("2026-12-27T23:00:00Z", Clock::Open),
    ] {
        assert_eq!(clock(yaml, at), expected, "{at}");
    }
}

#[test]
fn a_freeze_may_have_a_time_zone_of_its_own() {
    let yaml = r#"{freezes: [{reason: New York sleeps, timeZone: America/New_York, when: {from: "22:00", to: "06:00"}}]}"#;
    assert_eq!(clock(yaml, "2026-11-24T03:00:00Z"), Clock::Frozen(0));
    assert_eq!(clock(yaml, "2026-11-24T22:00:00Z"), Clock::Open);
}

/// 2026-03-29: Berlin goes from 02:00 to 03:00. 2026-10-25: from 03:00 back to 02:00.
#[test]
fn on_days_of_a_clock_change_an_opening_is_not_longer_and_a_freeze_not_shorter() {
    let open = |from: &str, to: &str| format!("{{timeZone: Europe/Berlin, open: [{{from: \"{from}\", to: \"{to}\"}}]}}");
    let frozen = |from: &str, to: &str| {
        format!("{{timeZone: Europe/Berlin, freezes: [{{reason: x, when: {{from: \"{from}\", to: \"{to}\"}}}}]}}")
    };
    let table = [
        // 02:30 does not exist: the clock passes it at 03:00, 01:00 UTC.
        (open("01:00", "02:30"), "2026-03-29T00:59:59Z", Clock::Open),
        (open("01:00", "02:30"), "2026-03-29T01:00:00Z", Clock::Closed),
        (open("02:30", "04:00"), "2026-03-29T00:59:59Z", Clock::Closed),
        (open("02:30", "04:00"), "2026-03-29T01:00:00Z", Clock::Open),
        (open("02:10", "02:50"), "2026-03-29T01:00:00Z", Clock::Closed),
        // 02:30 happens twice, at 00:30 and at 01:30 UTC.
        (open("01:00", "02:30"), "2026-10-25T00:29:59Z", Clock::Open),
        (open("01:00", "02:30"), "2026-10-25T00:30:00Z", Clock::Closed),
        (open("01:00", "02:30"), "2026-10-25T01:15:00Z", Clock::Closed),
        (open("02:30", "04:00"), "2026-10-25T00:45:00Z", Clock::Closed),
        (open("02:30", "04:00"), "2026-10-25T01:30:00Z", Clock::Open),
        (frozen("01:00", "02:30"), "2026-10-25T00:45:00Z", Clock::Frozen(0)),
        (frozen("01:00", "02:30"), "2026-10-25T01:29:59Z", Clock::Frozen(0)),
        (frozen("01:00", "02:30"), "2026-10-25T01:30:00Z", Clock::Open),
        (frozen("02:30", "04:00"), "2026-10-25T00:30:00Z", Clock::Frozen(0)),
        (frozen("02:30", "04:00"), "2026-10-25T00:29:59Z", Clock::Open),
    ];
    for (yaml, at, expected) in table {
        assert_eq!(clock(&yaml, at), expected, "{yaml} {at}");
    }
}

#[test]
fn every_day_has_no_hole_where_midnight_happens_twice() {
    // Havana goes back from 01:00 to 00:00 on 2026-11-01: midnight is at 04:00 and at 05:00 UTC.
    let every_day = "{timeZone: America/Havana, open: [{days: [Mon, Tue, Wed, Thu, Fri, Sat, Sun]}]}";
    for minute in 0..240 {
        let at = time("2026-11-01T02:00:00Z") + jiff::SignedDuration::from_mins(minute);
        assert_eq!(Hours::of(&rule(every_day)).unwrap().at(at), Clock::Open, "{at}");
    }
}

#[test]
fn the_next_opening_skips_weekends_and_freezes_and_is_none_where_there_is_none() {
    let next = |yaml: &str, at: &str| Hours::of(&rule(yaml)).unwrap().next_opening(time(at));
    assert_eq!(next(OFFICE, "2026-11-24T12:00:00Z"), Some(time("2026-11-24T12:00:00Z")), "now");
    assert_eq!(next(OFFICE, "2026-11-27T16:00:00Z"), Some(time("2026-11-30T08:00:00Z")), "over a weekend");
    let frozen = OFFICE.replace("}]}", r#"}], freezes: [{reason: x, when: {firstDate: "2026-11-28", lastDate: "2026-12-01"}}]}"#);
    assert_eq!(next(&frozen, "2026-11-27T16:00:00Z"), Some(time("2026-12-02T08:00:00Z")), "over a freeze");
    assert_eq!(next(OFFICE, "2026-03-27T20:00:00Z"), Some(time("2026-03-30T07:00:00Z")), "over a clock change");
    assert_eq!(next(r#"{open: [{lastDate: "2026-01-01"}]}"#, "2026-11-24T12:00:00Z"), None);
    assert_eq!(next(r#"{open: [{firstDate: "2027-11-01"}]}"#, "2026-11-24T12:00:00Z"), Some(time("2027-11-01T00:00:00Z")));
}

#[test]
fn closed_says_when_it_opens_and_frozen_says_why() {
    let picture = cluster("checkout", 3, 0);
    let office = [guardrail(&format!("moment: {OFFICE}"))];
    let says = |guardrails: &[Named], at: &str| {
        let answers = asked(guardrails, &picture, &kill(&picture, &["checkout-0"]), time(at));
        (verdict(&answers), sentence(&answers).unwrap_or_default())
    };
    assert_eq!(
        says(&office, "2026-11-27T16:00:00Z"),
        (
            Says::Wait,
            "guardrail staging, moment.open: closed: the opening hours are Mon, Tue, Wed, Thu, Fri 09:00–17:00 (Europe/Berlin). \
             Way out: wait: it opens Mon 2026-11-30 09:00 CET"
                .to_owned()
        )
    );
    assert_eq!(says(&office, "2026-11-27T15:00:00Z"), (Says::Allow, String::new()));
    let sale = [guardrail(r#"moment: {freezes: [{reason: the sale, when: {firstDate: "2026-11-27", lastDate: "2026-11-30"}}]}"#)];
    assert_eq!(
        says(&sale, "2026-11-27T16:00:00Z").1,
        "guardrail staging, moment.freezes: frozen from 2026-11-27 to 2026-11-30: the sale. Way out: wait: it opens Tue \
         2026-12-01 00:00 UTC"
    );
}

#[test]
fn a_time_zone_that_nobody_knows_is_closed() {
    let mut unknown = guardrail("moment: {open: [{days: [Mon]}]}");
    unknown.spec.moment.time_zone = Some("Mars/Olympus".to_owned());
    let picture = cluster("checkout", 3, 0);
    let answers = ask_now(&[unknown], &picture, &kill(&picture, &["checkout-0"]));
    assert_eq!((verdict(&answers), answers[0].rule), (Says::Wait, "spec"));
    assert!(answers[0].sum.contains("spec.moment.timeZone"), "{}", answers[0].sum);
}

fn windows() -> impl Strategy<Value = Window> {
    let days = prop::collection::vec(prop::sample::select(vec![Weekday::Mon, Weekday::Wed, Weekday::Sat, Weekday::Sun]), 0..3);
    let times = prop::option::of((0..24u8, 0..60u8, 0..24u8, 0..60u8));
    let dates = prop::option::of((0..300i64, 0..100i64));
    (days, times, dates).prop_map(|(days, times, dates)| {
        let day = |ahead: i64| Date(jiff::civil::date(2026, 1, 1) + jiff::SignedDuration::from_hours(24 * ahead));
        let time = |hour: u8, minute: u8| format!("{hour:02}:{minute:02}").parse::<TimeOfDay>().unwrap();
        let times = times.map(|(a, b, c, d)| (time(a, b), time(c, d))).filter(|(from, to)| from != to);
        Window {
            days,
            from: times.map(|(from, _)| from),
            to: times.map(|(_, to)| to),
            first_date: dates.map(|(first, _)| day(first)),
            last_date: dates.map(|(first, length)| day(first + length)),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The next opening is open, and nothing before it is, minute by minute for two days.
    #[test]
    fn nothing_opens_before_the_next_opening(
        open in prop::collection::vec(windows(), 1..3),
        freezes in prop::collection::vec(windows(), 0..3),
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/Havana", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]),
        minute in 0..525_600i64,
    ) {
        let freezes = freezes.into_iter().map(|when| crate::api::Freeze { reason: "x".to_owned(), when, time_zone: None }).collect();
        let rule = MomentRule { time_zone: Some(zone.to_owned()), open, freezes, ..MomentRule::default() };
        let hours = Hours::of(&rule).unwrap();
        let now = time("2026-01-01T00:00:00Z") + jiff::SignedDuration::from_mins(minute);
        let next = hours.next_opening(now);
        if let Some(next) = next {
            prop_assert_eq!(hours.at(next), Clock::Open);
        }
        for ahead in 0..2 * 24 * 60 {
            let at = now + jiff::SignedDuration::from_mins(ahead);
            if next.is_some_and(|next| at >= next) {
                break;
            }
            prop_assert_ne!(hours.at(at), Clock::Open, "open at {}, said to open at {:?}", at, next);
        }
    }
}
