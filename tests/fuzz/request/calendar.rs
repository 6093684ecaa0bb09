//! Reads and writes RFC 3339 times by counting days. Source: RFC 3339 §5.6.

const DAY_MS: i64 = 86_400_000;

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_months(year: i64) -> [i64; 12] {
    [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// Writes a time in UTC with milliseconds, for the years 0 to 9999.
pub fn utc(at_ms: i64) -> String {
    let (mut days, ms) = (at_ms.div_euclid(DAY_MS), at_ms.rem_euclid(DAY_MS));
    let mut year = 1970;
    while days < 0 {
        year -= 1;
        days += days_of_year(year);
    }
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    for length in days_of_months(year) {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", days + 1, ms % 1000)
}

/// Reads a time into milliseconds since 1970. `None` means that the text is no time, or has a form that this reader
/// leaves out (leap seconds, blanks for the `T`, times before 1970).
pub fn instant(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let is_mark = |at: usize, mark: &str| text.get(at..at + mark.len()) == Some(mark);
    let are_marks =
        [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")].iter().all(|(at, m)| is_mark(*at, m));
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let months = days_of_months(year);
    let index = usize::try_from(month - 1).ok()?;
    let is_time = (1..=*months.get(index)?).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !are_marks || !is_time || year < 1970 {
        return None;
    }
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let ms = match fraction.strip_prefix('.') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{digits}00").get(..3)?.parse::<i64>().ok()?
        }
        None if fraction.is_empty() => 0,
        _ => return None,
    };
    let days = (1970..year).map(days_of_year).sum::<i64>() + months[..index].iter().sum::<i64>() + day - 1;
    let at_ms = days * DAY_MS + hour * 3_600_000 + minute * 60_000 + second * 1000 + ms;
    (at_ms >= DAY_MS).then_some(at_ms - offset_ms(zone)?)
}

fn offset_ms(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let is_pair = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (hours, minutes) = (Some(hours).filter(|t| is_pair(t))?, Some(minutes).filter(|t| is_pair(t))?);
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let offset_ms = hours * 3_600_000 + minutes * 60_000;
    let is_offset = hours < 24 && minutes < 60;
    is_offset.then_some(if zone.starts_with('-') { -offset_ms } else { offset_ms })
}
