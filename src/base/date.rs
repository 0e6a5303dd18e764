/// A moment as RFC 3339 has it: `2026-11-21T18:47:11Z`, or with the offset of a place.
pub fn rfc3339(seconds: i64, offset_minutes: i32) -> String {
    // Years 0 to 9999, which is all that the form can hold.
    let local = (seconds.saturating_add(i64::from(offset_minutes) * 60)).clamp(-62_167_219_200, 253_402_300_799);
    let (days, of_day) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let zone = match offset_minutes {
        0 => "Z".to_owned(),
        offset => {
            let sign = if offset < 0 { '-' } else { '+' };
            format!("{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60)
        }
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        for (seconds, offset, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (1_795_286_831, 0, "2026-11-21T18:47:11Z"),
            (1_795_286_831, -330, "2026-11-21T13:17:11-05:30"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (-1, 60, "1970-01-01T00:59:59+01:00"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
            (i64::MAX, 0, "9999-12-31T23:59:59Z"),
            (i64::MIN, 0, "0000-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds, offset), text);
        }
    }
}
