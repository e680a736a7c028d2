//! Windows of the week, such as business hours: `windows` of holdline.yaml.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;

/// Days as people write them, in the order of the week.
pub const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// The same hours on some days of the week, by the clocks of one place: summer time moves them with the people.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub zone: TimeZone,
    pub days: Vec<Weekday>,
    /// The first moment that is inside.
    pub from: Time,
    /// The first that is not any more. Not after `from`: on the next day. Midnight to midnight: the whole day.
    pub to: Time,
    /// Holidays: dates on which it does not begin.
    pub closed: BTreeSet<Date>,
}

impl Window {
    /// Whether a moment is inside. Unix milliseconds.
    pub fn contains(&self, at_ms: i64) -> bool {
        let Ok(at) = Timestamp::from_millisecond(at_ms) else { return false };
        let here = at.to_zoned_datetime(self.zone.clone());
        let (date, time) = (here.date(), here.time());
        let begins = |date: Date| self.days.contains(&date.weekday()) && !self.closed.contains(&date);
        if self.from < self.to {
            return begins(date) && self.from <= time && time < self.to;
        }
        let since_yesterday = time < self.to && date.yesterday().is_ok_and(begins);
        (begins(date) && self.from <= time) || since_yesterday
    }
}

/// Reads `08:00-20:00`.
///
/// # Errors
/// What was expected.
pub fn hours(text: &str) -> Result<(Time, Time), String> {
    let expected = || format!("{text:?}: expected hours such as `08:00-20:00`");
    let time = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        // The end of the day is the beginning of the next.
        let hour: i8 = if hour == "24" && minute == "00" { 0 } else { hour.parse().ok()? };
        Time::new(hour, minute.parse().ok()?, 0, 0).ok()
    };
    let (from, to) = text.split_once('-').ok_or_else(expected)?;
    Ok((time(from).ok_or_else(expected)?, time(to).ok_or_else(expected)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(hours_of: &str) -> Window {
        let (from, to) = hours(hours_of).unwrap();
        let weekdays = DAYS.iter().take(5).map(|(_, day)| *day).collect();
        let closed = BTreeSet::from(["2026-12-25".parse().unwrap()]);
        Window { zone: TimeZone::get("Europe/Lisbon").unwrap(), days: weekdays, from, to, closed }
    }

    #[test]
    fn e7_hours_go_by_the_clocks_of_the_place() {
        let check = |hours: &str, at: &str, expected: bool| {
            let at_ms = at.parse::<Timestamp>().unwrap().as_millisecond();
            assert_eq!(window(hours).contains(at_ms), expected, "{hours} at {at}");
        };
        // Winter: Lisbon is at UTC. A Friday.
        check("08:00-20:00", "2026-11-27T07:59:59.999Z", false);
        check("08:00-20:00", "2026-11-27T08:00:00Z", true);
        check("08:00-20:00", "2026-11-27T19:59:59.999Z", true);
        check("08:00-20:00", "2026-11-27T20:00:00Z", false);
        // Summer: an hour ahead of it.
        check("08:00-20:00", "2026-07-01T07:00:00Z", true);
        check("08:00-20:00", "2026-07-01T06:59:59Z", false);
        check("08:00-20:00", "2026-07-01T19:00:00Z", false);
        // The Monday after the clocks went forward, and the one after they went back.
        check("08:00-20:00", "2026-03-30T07:00:00Z", true);
        check("08:00-20:00", "2026-10-26T07:30:00Z", false);
        // A weekend, and a holiday that falls on a Friday.
        check("08:00-20:00", "2026-11-28T12:00:00Z", false);
        check("08:00-20:00", "2026-12-25T12:00:00Z", false);
        // Through the night, to the morning after a Friday, and not after a holiday.
        check("22:00-06:00", "2026-11-27T23:00:00Z", true);
        check("22:00-06:00", "2026-11-28T05:59:00Z", true);
        check("22:00-06:00", "2026-11-28T06:00:00Z", false);
        check("22:00-06:00", "2026-11-28T23:00:00Z", false);
        check("22:00-06:00", "2026-12-26T05:00:00Z", false);
        check("22:00-06:00", "2026-11-30T05:00:00Z", false);
        check("00:00-24:00", "2026-11-27T00:00:00Z", true);
        check("00:00-24:00", "2026-11-28T00:00:00Z", false);
    }

    #[test]
    fn hours_are_read_as_people_write_them() {
        let check = |text: &str, expected: bool| assert_eq!(hours(text).is_ok(), expected, "{text}");
        check("08:00-20:00", true);
        check("08:30 - 17:15", true);
        check("00:00-24:00", true);
        check("8-20", false);
        check("08:00", false);
        check("08:00-25:00", false);
        check("08:60-20:00", false);
        check("24:30-02:00", false);
    }
}
