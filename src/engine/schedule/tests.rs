use proptest::prelude::*;

use super::*;

fn timetable(cron: &str, zone: &str) -> Timetable {
    Timetable::new(&Schedule {
        cron: cron.to_owned(),
        time_zone: zone.to_owned(),
        start_within: Duration::from_secs(300),
        if_running: IfRunning::Skip,
    })
    .unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Every start in a span, asked one after the other.
fn starts(timetable: &Timetable, from: &str, to: &str) -> Vec<String> {
    let mut cursor = at(from);
    let mut found = Vec::new();
    while let Some(next) = timetable.next(cursor)
        && next < at(to)
    {
        found.push(next.to_zoned(timetable.zone.clone()).strftime("%d %H:%M %:z").to_string());
        cursor = next;
    }
    found
}

static NO_RUNS: BTreeSet<String> = BTreeSet::new();

fn idle() -> Circumstances<'static> {
    Circumstances { game_day: "checkout", suspended: false, active: None, runs: &NO_RUNS }
}

#[test]
fn a_start_in_a_skipped_hour_falls_once_at_its_end() {
    // In Berlin 2026-03-29 goes from 02:00 +01:00 to 03:00 +02:00, at 01:00 UTC.
    let day = |cron| starts(&timetable(cron, "Europe/Berlin"), "2026-03-28T22:59:59Z", "2026-03-29T22:00:00Z");
    assert_eq!(day("30 1 * * *"), ["29 01:30 +01:00"]);
    assert_eq!(day("0 2 * * *"), ["29 03:00 +02:00"]);
    assert_eq!(day("30 2 * * *"), ["29 03:00 +02:00"]);
    assert_eq!(day("0,30 2 * * *"), ["29 03:00 +02:00"]);
    assert_eq!(day("30 2,3 * * *"), ["29 03:00 +02:00", "29 03:30 +02:00"]);
    assert_eq!(day("0 2,3,4 * * *"), ["29 03:00 +02:00", "29 04:00 +02:00"]);
    assert_eq!(day("30 2 29 3 *"), ["29 03:00 +02:00"]);
    assert_eq!(day("30 2 * * SUN"), ["29 03:00 +02:00"]);
}

#[test]
fn a_start_in_a_repeated_hour_falls_once_the_first_time() {
    // In Berlin 2026-10-25 goes from 03:00 +02:00 back to 02:00 +01:00, at 01:00 UTC.
    let day = |cron| starts(&timetable(cron, "Europe/Berlin"), "2026-10-24T21:59:59Z", "2026-10-25T23:00:00Z");
    assert_eq!(day("30 2 * * *"), ["25 02:30 +02:00"]);
    assert_eq!(day("0,30 2 * * *"), ["25 02:00 +02:00", "25 02:30 +02:00"]);
    assert_eq!(day("0 2-3 * * *"), ["25 02:00 +02:00", "25 03:00 +01:00"]);
    assert_eq!(day("*/20 2 * * *"), ["25 02:00 +02:00", "25 02:20 +02:00", "25 02:40 +02:00"]);
}

#[test]
fn a_pattern_of_every_hour_goes_by_the_hours_that_pass() {
    let hourly = timetable("30 * * * *", "Europe/Berlin");
    assert_eq!(
        starts(&hourly, "2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z"),
        ["29 01:30 +01:00", "29 03:30 +02:00"],
        "there is no 02:30"
    );
    assert_eq!(
        starts(&hourly, "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"),
        ["25 02:30 +02:00", "25 02:30 +01:00", "25 03:30 +01:00"],
        "02:30 is twice"
    );
    let minutely = timetable("* * * * *", "Europe/Berlin");
    assert_eq!(starts(&minutely, "2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z").len(), 179);
    assert_eq!(starts(&minutely, "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z").len(), 179);
}

#[test]
fn half_hours_are_hours_too() {
    // Lord Howe Island changes by half an hour: 2026-04-05 02:00 +11:00 back to 01:30 +10:30, and 2026-10-04
    // 02:00 +10:30 to 02:30 +11:00.
    let lord_howe = |cron| timetable(cron, "Australia/Lord_Howe");
    let repeated = ("2026-04-04T13:00:00Z", "2026-04-05T12:00:00Z");
    assert_eq!(starts(&lord_howe("45 1 * * *"), repeated.0, repeated.1), ["05 01:45 +11:00"]);
    assert_eq!(starts(&lord_howe("15,45 1,2 * * *"), repeated.0, repeated.1).len(), 4);
    let skipped = ("2026-10-03T13:30:00Z", "2026-10-04T13:00:00Z");
    assert_eq!(starts(&lord_howe("15 2 * * *"), skipped.0, skipped.1), ["04 02:30 +11:00"]);
    assert_eq!(starts(&lord_howe("15,30 2 * * *"), skipped.0, skipped.1), ["04 02:30 +11:00"]);
    // Calcutta is half an hour off and never changes.
    let calcutta = timetable("0 10 * * TUE", "Asia/Kolkata");
    assert_eq!(calcutta.next(at("2026-11-24T00:00:00Z")), Some(at("2026-11-24T04:30:00Z")));
    assert_eq!(calcutta.next(at("2026-11-24T04:30:00Z")), Some(at("2026-12-01T04:30:00Z")));
}

#[test]
fn starts_around_a_clock_change_are_due_once() {
    let due = |cron, now| -> Vec<String> {
        let timetable = timetable(cron, "Europe/Berlin");
        Newest::new(&timetable, at(now)).take(2).map(|at| at.to_string()).collect()
    };
    // Three minutes of the skipped hour, and the first after it, are one start.
    assert_eq!(due("0,30,59 2,3 * * *", "2026-03-29T01:10:00Z"), ["2026-03-29T01:00:00Z", "2026-03-28T02:59:00Z"]);
    // The clock shows 02:15 for the second time: 02:45 has been.
    assert_eq!(due("15,45 2 * * *", "2026-10-25T01:15:00Z"), ["2026-10-25T00:45:00Z", "2026-10-25T00:15:00Z"]);
    // For the first time: it has not.
    assert_eq!(due("15,45 2 * * *", "2026-10-25T00:15:00Z"), ["2026-10-25T00:15:00Z", "2026-10-24T00:45:00Z"]);
}

#[test]
fn a_due_start_is_made_within_its_time_and_not_twice() {
    let tuesday = timetable("0 10 * * TUE", "Europe/Berlin");
    let since = at("2026-11-20T00:00:00Z");
    let due = at("2026-11-24T09:00:00Z");
    let next = Some(at("2026-12-01T09:00:00Z"));

    let early = tuesday.decide(since, at("2026-11-24T08:59:59.999Z"), idle());
    assert_eq!(early, Decision { next: Some(due), wake: Some(due), ..Decision::default() });
    for now in ["2026-11-24T09:00:00Z", "2026-11-24T09:05:00Z"] {
        let made = tuesday.decide(since, at(now), idle());
        assert_eq!(made, Decision { start: Some(due), decided: Some(due), next, wake: next, ..Decision::default() });
    }
    let late = tuesday.decide(since, at("2026-11-24T09:05:00.001Z"), idle());
    assert_eq!((late.start, late.decided, late.missed_count), (None, Some(due), 1));
    assert_eq!(late.missed, [MissedStart { at: due, why: "no operator started it within 5m".to_owned() }]);

    let again = tuesday.decide(due, at("2026-11-24T09:00:30Z"), idle());
    assert_eq!(again, Decision { next, wake: next, ..Decision::default() });
}

#[test]
fn a_clock_that_goes_back_decides_nothing_again() {
    let hourly = timetable("0 * * * *", "UTC");
    let decided = at("2026-11-24T12:00:00Z");
    for now in ["2026-11-24T11:00:00Z", "2026-11-24T11:59:59Z", "2026-11-24T12:00:00Z", "2020-01-01T00:00:00Z"] {
        let decision = hourly.decide(decided, at(now), idle());
        let next = Some(at("2026-11-24T13:00:00Z"));
        assert_eq!(decision, Decision { next, wake: next, ..Decision::default() }, "{now}");
    }
}

#[test]
fn only_the_newest_of_many_starts_is_made_and_the_others_are_told() {
    let minutely = timetable("* * * * *", "UTC");
    let decision = minutely.decide(at("2026-11-24T10:00:00Z"), at("2026-11-24T10:20:10Z"), idle());
    assert_eq!(decision.start, Some(at("2026-11-24T10:20:00Z")));
    assert_eq!(decision.decided, decision.start);
    assert_eq!((decision.missed.len(), decision.missed_count, decision.uncounted), (10, 19, false));
    assert_eq!(decision.missed[0].at, at("2026-11-24T10:10:00Z"), "oldest first");
    assert_eq!(decision.missed[0].why, "no operator started it within 5m");
    assert_eq!(decision.missed[9].at, at("2026-11-24T10:19:00Z"));
    assert_eq!(decision.missed[9].why, "the start at 2026-11-24T10:20:00Z was due as well, and only the newest is made");
}

#[test]
fn a_year_of_minutes_is_not_counted_to_its_end() {
    let minutely = timetable("* * * * *", "Europe/Berlin");
    let decision = minutely.decide(at("2025-11-24T10:00:00Z"), at("2026-11-24T10:00:10Z"), idle());
    assert_eq!(decision.start, Some(at("2026-11-24T10:00:00Z")));
    assert_eq!((decision.missed.len(), decision.missed_count, decision.uncounted), (10, COUNTED_MAX as i64, true));
    // A year of Tuesdays is.
    let tuesdays = timetable("0 10 * * TUE", "Europe/Berlin");
    let decision = tuesdays.decide(at("2025-11-24T10:00:00Z"), at("2026-11-24T10:00:10Z"), idle());
    assert_eq!((decision.missed_count, decision.uncounted), (53, false));
}

#[test]
fn a_start_beside_a_run_under_way_is_skipped_or_replaces_it() {
    let since = at("2026-11-24T09:59:00Z");
    let due = at("2026-11-24T10:00:00Z");
    let busy = Circumstances { active: Some("checkout-x"), ..idle() };
    let mut hourly = timetable("0 * * * *", "UTC");

    let skipped = hourly.decide(since, at("2026-11-24T10:00:01Z"), busy);
    assert_eq!((skipped.start, skipped.stop_active, skipped.decided), (None, false, Some(due)));
    assert_eq!(skipped.missed, [MissedStart { at: due, why: "the run checkout-x was still under way".to_owned() }]);

    hourly.if_running = IfRunning::Replace;
    let asked = hourly.decide(since, at("2026-11-24T10:00:01Z"), busy);
    assert_eq!((asked.start, asked.stop_active, asked.decided, asked.missed_count), (None, true, None, 0));
    assert_eq!(asked.wake, Some(at("2026-11-24T10:05:00.001Z")));
    let over = hourly.decide(since, at("2026-11-24T10:04:59Z"), idle());
    assert_eq!((over.start, over.stop_active, over.decided), (Some(due), false, Some(due)));
    let too_late = hourly.decide(since, asked.wake.unwrap(), busy);
    assert_eq!((too_late.start, too_late.stop_active, too_late.decided), (None, false, Some(due)));
    assert_eq!(too_late.missed[0].why, "the run checkout-x was not over within 5m");
}

#[test]
fn a_start_that_waits_for_a_run_to_stop_decides_those_before_it() {
    let mut minutely = timetable("* * * * *", "UTC");
    minutely.if_running = IfRunning::Replace;
    let busy = Circumstances { active: Some("checkout-x"), ..idle() };
    let decision = minutely.decide(at("2026-11-24T10:00:00Z"), at("2026-11-24T10:03:00Z"), busy);
    assert!(decision.stop_active);
    assert_eq!((decision.decided, decision.missed_count), (Some(at("2026-11-24T10:02:00Z")), 2));
    assert_eq!(decision.wake, Some(at("2026-11-24T10:04:00Z")));
}

#[test]
fn a_start_whose_run_exists_was_made() {
    let hourly = timetable("0 * * * *", "UTC");
    let due = at("2026-11-24T10:00:00Z");
    let runs = BTreeSet::from([run_name("checkout", due)]);
    for (active, now) in
        [(Some("checkout-202611241000"), "2026-11-24T10:00:01Z"), (None, "2026-11-24T10:00:01Z"), (None, "2026-11-24T10:30:00Z")]
    {
        let circumstances = Circumstances { active, runs: &runs, ..idle() };
        let decision = hourly.decide(at("2026-11-24T09:00:00Z"), at(now), circumstances);
        assert_eq!((decision.start, decision.decided, decision.missed_count), (None, Some(due), 0), "{active:?} {now}");
    }
    let circumstances = Circumstances { runs: &runs, ..idle() };
    let later = hourly.decide(at("2026-11-24T08:00:00Z"), at("2026-11-24T11:00:00Z"), circumstances);
    assert_eq!((later.start, later.missed_count), (Some(at("2026-11-24T11:00:00Z")), 1), "only 09:00 was missed");
}

#[test]
fn a_suspended_game_day_starts_nothing_then_or_later() {
    let hourly = timetable("0 * * * *", "UTC");
    let suspended = Circumstances { suspended: true, ..idle() };
    let decision = hourly.decide(at("2026-11-24T08:30:00Z"), at("2026-11-24T10:00:01Z"), suspended);
    assert_eq!((decision.start, decision.decided), (None, Some(at("2026-11-24T10:00:00Z"))));
    assert_eq!((decision.missed_count, decision.missed[0].why.as_str()), (2, "the game day was suspended"));
}

#[test]
fn a_run_is_named_for_its_minute_in_utc() {
    assert_eq!(run_name("checkout", at("2026-03-29T01:00:00Z")), "checkout-202603290100");
    assert_eq!(run_name("checkout", at("2026-10-25T02:30:00+02:00")), "checkout-202610250030");
    assert_eq!(run_name("checkout", at("2026-10-25T02:30:00+01:00")), "checkout-202610250130");
}

#[test]
fn a_pattern_that_cannot_be_says_which_field() {
    for (pattern, says) in [
        ("", "\"\" has 0 fields"),
        ("0 10 * *", "has 4 fields"),
        ("0 0 10 * * TUE", "has 6 fields"),
        ("0 10 * * TUE 2027", "has 6 fields"),
        ("TZ=UTC 0 10 * * *", "has 6 fields"),
        ("60 10 * * *", "the minute, \"60\", is not 0 to 59"),
        ("0 24 * * *", "the hour, \"24\", is not 0 to 23"),
        ("0 10 0 * *", "the day of month, \"0\""),
        ("0 10 * 13 *", "the month, \"13\""),
        ("0 10 * * TUESDAY", "the day of week, \"TUESDAY\""),
        ("0 10 * * 8", "the day of week, \"8\""),
        ("1,,2 10 * * *", "the minute, \"1,,2\""),
        (", 10 * * *", "the minute, \",\""),
        ("5/10 * * * *", "the minute, \"5/10\""),
        ("*/0 * * * *", "the minute, \"*/0\""),
        ("30-10 * * * *", "the minute, \"30-10\""),
        ("x * * * *", "the minute, \"x\""),
        ("@reboot", "\"@reboot\" is none of @hourly"),
        ("0 0 30 2 *", "\"0 0 30 2 *\" is a day that never comes"),
        ("0 0 31 4,6 *", "is a day that never comes"),
    ] {
        let refusal = parse_cron(pattern).unwrap_err();
        assert!(refusal.contains(says), "{pattern}: {refusal}");
        assert!(refusal.ends_with(SHOWN), "{pattern}: {refusal}");
    }
    for pattern in ["0 10 * * TUE", "*/5 9-17 * * mon-fri", "0 0 29 2 *", "0 0 L * *", "@daily", "0 0 29 2 +MON", " 0  1 * * * "]
    {
        parse_cron(pattern).unwrap_or_else(|refusal| panic!("{pattern}: {refusal}"));
    }
}

#[test]
fn a_zone_that_is_not_one_says_which_may_be_meant() {
    for (text, says) in [
        ("Europe/Berln", "no time zone is named \"Europe/Berln\"; is Europe/Berlin meant?"),
        ("Berlin", "no time zone is named \"Berlin\"; is Europe/Berlin meant?"),
        ("Mars/Olympus", "no time zone is named \"Mars/Olympus\"; write one like UTC or Europe/Berlin"),
        ("", "no time zone is named \"\"; write one like UTC or Europe/Berlin"),
        ("+02:00", "no time zone is named \"+02:00\"; write one like UTC or Europe/Berlin"),
    ] {
        assert_eq!(parse_zone(text).unwrap_err(), says);
    }
    for text in ["UTC", "Europe/Berlin", "Asia/Kolkata", "Etc/GMT-3"] {
        parse_zone(text).unwrap();
    }
}

fn patterns() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "* * * * *",
        "*/7 * * * *",
        "30 * * * *",
        "30 2 * * *",
        "*/10 1-3 * * *",
        "0,20,59 0-22 * * *",
        "0 */2 * * *",
        "15 0,2,23 * * *",
        "59 23 * * *",
        "0 0 * * *",
    ])
}

fn zones() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Australia/Adelaide",
        "America/Santiago",
        "Asia/Kolkata",
        "Africa/Casablanca",
    ])
}

/// A moment near a clock change, or anywhere in the year.
fn moments() -> impl Strategy<Value = Timestamp> {
    let changes = ["2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z", "2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z"];
    prop_oneof![
        (prop::sample::select(changes.to_vec()), -14_400i64..14_400)
            .prop_map(|(change, seconds)| at(change) + SignedDuration::from_secs(seconds)),
        (0i64..365 * 86_400).prop_map(|seconds| at("2026-01-01T00:00:00Z") + SignedDuration::from_secs(seconds)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Looked back at, the starts are those that were looked forward to.
    #[test]
    fn newest_first_is_the_same_as_one_after_the_other(cron in patterns(), zone in zones(), from in moments(), hours in 0i64..12) {
        let timetable = timetable(cron, zone);
        let now = from + SignedDuration::from_hours(hours);
        let mut forward = Vec::new();
        let mut cursor = from;
        while let Some(next) = timetable.next(cursor) && next <= now {
            prop_assert!(next > cursor);
            forward.push(next);
            cursor = next;
        }
        let mut backward: Vec<Timestamp> = Newest::new(&timetable, now).take_while(|at| *at > from).collect();
        backward.reverse();
        prop_assert_eq!(forward, backward);
    }

    /// However often and irregularly it is asked, each start is decided once: made or missed.
    #[test]
    fn each_start_is_made_or_missed_exactly_once(
        cron in patterns(), zone in zones(), from in moments(), waits in prop::collection::vec(-600i64..1_800, 1..40),
    ) {
        let timetable = timetable(cron, zone);
        let (mut since, mut now, mut latest) = (from, from, from);
        let (mut made, mut missed) = (BTreeSet::new(), 0);
        for wait in waits {
            now += SignedDuration::from_secs(wait);
            latest = latest.max(now);
            let decision = timetable.decide(since, now, idle());
            if let Some(start) = decision.start {
                prop_assert!(made.insert(start), "{} twice", start);
                prop_assert!(start <= now && now.duration_since(start) <= SignedDuration::from_secs(300));
            }
            missed += decision.missed_count;
            since = decision.decided.unwrap_or(since);
        }
        let mut all = 0;
        let mut cursor = from;
        while let Some(next) = timetable.next(cursor) && next <= latest {
            all += 1;
            cursor = next;
        }
        prop_assert_eq!(made.len() as i64 + missed, all);
    }
}
