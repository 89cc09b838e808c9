//! Dates and times as text: proleptic Gregorian calendar, UTC, no leap seconds.
//!
//! Invariants: a date is days since 1970-01-01 within 0001-01-01 … 9999-12-31; a timestamp is
//! signed nanoseconds since then, so it spans 1677-09-21 … 2262-04-11. What does not fit is
//! refused.

use core::fmt;

pub const NS_PER_SECOND: i64 = 1_000_000_000;
pub const SECONDS_PER_DAY: i64 = 86_400;
pub const NS_PER_DAY: i64 = SECONDS_PER_DAY * NS_PER_SECOND;

/// A calendar day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Civil {
    pub year: i32,
    pub month: u8,
    pub day: u8,
}

#[must_use]
pub fn is_leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

#[must_use]
pub fn days_in_month(year: i32, month: u8) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Civil {
    /// None unless it is a day of the years 1 to 9999.
    #[must_use]
    pub fn new(year: i32, month: u8, day: u8) -> Option<Civil> {
        let valid = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day);
        valid.then_some(Civil { year, month, day })
    }

    /// Days since 1970-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms").
    #[must_use]
    pub fn to_days(self) -> i32 {
        let year = self.year - i32::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month = i32::from(self.month);
        let shifted = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * shifted + 2) / 5 + i32::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    #[must_use]
    pub fn from_days(days: i32) -> Civil {
        let days = i64::from(days) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u8;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u8;
        let year = (year_of_era + era * 400) as i32 + i32::from(month <= 2);
        Civil { year, month, day }
    }
}

/// First and last day that exist.
pub const DATE_MIN: i32 = -719_162;
pub const DATE_MAX: i32 = 2_932_896;

impl fmt::Display for Civil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

fn digits(text: &[u8], at: usize, count: usize) -> Option<u32> {
    text.get(at..at + count)?
        .iter()
        .try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')))
}

/// `YYYY-MM-DD`, as days.
#[must_use]
pub fn parse_date(text: &str) -> Option<i32> {
    let bytes = text.trim_ascii().as_bytes();
    if bytes.len() != 10 {
        return None;
    }
    date_at_start(bytes)
}

fn date_at_start(bytes: &[u8]) -> Option<i32> {
    let year = digits(bytes, 0, 4)?;
    let month = digits(bytes, 5, 2)?;
    let day = digits(bytes, 8, 2)?;
    if bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    Civil::new(year as i32, month as u8, day as u8).map(Civil::to_days)
}

/// `YYYY-MM-DD[(T| )HH:MM[:SS[.fraction]][ ][Z|UTC|±HH[:MM]]]`, as nanoseconds; no zone means UTC.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let bytes = text.trim_ascii().as_bytes();
    let days = date_at_start(bytes.get(..10)?)?;
    let mut ns = i128::from(days) * i128::from(NS_PER_DAY);
    let rest = &bytes[10..];
    if rest.is_empty() {
        return i64::try_from(ns).ok();
    }
    if !matches!(rest[0], b' ' | b'T' | b't') {
        return None;
    }
    let (hour, minute) = (digits(rest, 1, 2)?, digits(rest, 4, 2)?);
    if *rest.get(3)? != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let mut at = 6;
    let mut seconds = i64::from(hour * 3600 + minute * 60);
    if rest.get(at) == Some(&b':') {
        let second = digits(rest, at + 1, 2)?;
        if second > 59 {
            return None;
        }
        seconds += i64::from(second);
        at += 3;
        if rest.get(at) == Some(&b'.') {
            at += 1;
            let start = at;
            let mut unit = NS_PER_SECOND;
            while let Some(byte) = rest.get(at).filter(|byte| byte.is_ascii_digit()) {
                unit /= 10;
                ns += i128::from(unit * i64::from(byte - b'0'));
                at += 1;
            }
            if at == start || at - start > 9 {
                return None;
            }
        }
    }
    let mut zone = &rest[at..];
    if zone.first() == Some(&b' ') {
        zone = &zone[1..];
    }
    let offset = match zone {
        [] | b"Z" | b"z" | b"UTC" => 0,
        [sign @ (b'+' | b'-'), after @ ..] => {
            let hours = digits(after, 0, 2)?;
            let minutes = match after.len() {
                2 => 0,
                4 => digits(after, 2, 2)?,
                5 if after[2] == b':' => digits(after, 3, 2)?,
                _ => return None,
            };
            if hours > 15 || minutes > 59 {
                return None;
            }
            let offset = i64::from(hours * 3600 + minutes * 60);
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    ns += i128::from(seconds - offset) * i128::from(NS_PER_SECOND);
    i64::try_from(ns).ok()
}

/// Day and nanosecond within the day.
#[must_use]
pub fn split_timestamp(ns: i64) -> (i32, i64) {
    (ns.div_euclid(NS_PER_DAY) as i32, ns.rem_euclid(NS_PER_DAY))
}

/// `YYYY-MM-DD HH:MM:SS[.fraction without trailing zeros]`, UTC.
pub fn write_timestamp(ns: i64, f: &mut impl fmt::Write) -> fmt::Result {
    let (day, within) = split_timestamp(ns);
    let seconds = within / NS_PER_SECOND;
    let mut fraction = within % NS_PER_SECOND;
    let civil = Civil::from_days(day);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(f, "{civil} {hour:02}:{minute:02}:{second:02}")?;
    if fraction != 0 {
        let mut width = 9;
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        write!(f, ".{fraction:0width$}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Civil, DATE_MAX, DATE_MIN, parse_date, parse_timestamp, write_timestamp};
    use alloc::string::{String, ToString};

    #[test]
    fn every_day_round_trips() {
        assert_eq!(Civil { year: 1970, month: 1, day: 1 }.to_days(), 0);
        let mut previous: Option<Civil> = None;
        for days in DATE_MIN..=DATE_MAX {
            let civil = Civil::from_days(days);
            assert_eq!(
                Civil::new(civil.year, civil.month, civil.day).map(Civil::to_days),
                Some(days)
            );
            assert!(previous.is_none_or(|previous| previous < civil));
            previous = Some(civil);
        }
        assert_eq!(Civil::from_days(DATE_MIN).to_string(), "0001-01-01");
        assert_eq!(Civil::from_days(DATE_MAX).to_string(), "9999-12-31");
    }

    #[test]
    fn text() {
        assert_eq!(parse_date("2026-02-29"), None);
        assert_eq!(parse_date("2024-02-29"), Some(19_782));
        assert_eq!(parse_date("24-02-29"), None);
        let same = parse_timestamp("2026-11-21T02:05:04.5Z");
        assert!(same.is_some());
        assert_eq!(parse_timestamp("2026-11-21 03:05:04.500+01:00"), same);
        assert_eq!(parse_timestamp("2026-11-21 03:05:04.500 +0100"), same);
        let mut out = String::new();
        write_timestamp(same.unwrap(), &mut out).unwrap();
        assert_eq!(out, "2026-11-21 02:05:04.5");
        assert_eq!(parse_timestamp("1969-12-31 23:59:59"), Some(-1_000_000_000));
        for bad in
            ["2026-11-21x", "2026-11-21 25:00", "2026-11-21 10:60", "3000-01-01", "", "é026-11-21"]
        {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }
}
