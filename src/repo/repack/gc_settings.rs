use std::time::{Duration, SystemTime};

use bstr::{BStr, ByteSlice};

use crate::repo::config::{BadValue, Config, bad};

const DAY: u64 = 24 * 60 * 60;

/// When something that nothing refers to any more may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// At once.
    Now,
    /// When it has been so for so long.
    After(Duration),
    /// What is from before this time.
    Before(SystemTime),
    /// Never.
    Never,
}

impl Expiry {
    /// What is from before this time may go; `None`: nothing.
    pub fn limit(self, now: SystemTime) -> Option<SystemTime> {
        match self {
            Expiry::Now => Some(now),
            Expiry::After(grace) => now.checked_sub(grace),
            Expiry::Before(time) => Some(time),
            Expiry::Never => None,
        }
    }
}

/// What maintenance asks besides `pack.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcSettings {
    /// `repack.writeBitmaps`, or `pack.writeBitmaps`; unset means: in a bare repository.
    pub write_bitmaps: Option<bool>,
    /// `gc.writeCommitGraph` (true).
    pub write_commit_graph: bool,
    /// `gc.packRefs` (true); `None` stands for `notbare`.
    pub pack_refs: Option<bool>,
    /// `gc.pruneExpire` (two weeks).
    pub prune_expire: Expiry,
}

impl GcSettings {
    pub(in crate::repo) fn new(c: &Config) -> Result<Self, BadValue> {
        let bitmaps = match c.boolean("repack.writebitmaps")? {
            Some(said) => Some(said),
            None => c.boolean("pack.writebitmaps")?,
        };
        let pack_refs = match c.last("gc.packrefs") {
            Some(Some(value)) if value == "notbare" => None,
            _ => Some(c.boolean("gc.packrefs")?.unwrap_or(true)),
        };
        let prune_expire = match c.string("gc.pruneexpire")? {
            None => Expiry::After(Duration::from_secs(14 * DAY)),
            Some(text) => expiry(text).ok_or_else(|| bad(b"gc.pruneexpire", "expiry date", Some(text)))?,
        };
        Ok(GcSettings {
            write_bitmaps: bitmaps,
            write_commit_graph: c.boolean("gc.writecommitgraph")?.unwrap_or(true),
            pack_refs,
            prune_expire,
        })
    }
}

/// `now`, `never`, `2.weeks.ago` and the like, or seconds since the epoch. Of the many ways in which git lets one say a date these are what is written into
/// configurations; another one is an error, since a guess could delete too much.
fn expiry(text: &BStr) -> Option<Expiry> {
    let text = text.to_str().ok()?.trim().to_ascii_lowercase();
    match text.as_str() {
        "now" | "all" => return Some(Expiry::Now),
        "never" | "false" => return Some(Expiry::Never),
        _ => {}
    }
    if let Some(seconds) = text
        .strip_prefix('@')
        .unwrap_or(&text)
        .parse::<u64>()
        .ok()
        .filter(|n| *n > 100_000_000)
    {
        return Some(Expiry::Before(
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?,
        ));
    }
    let mut words = text
        .split(|c: char| c == '.' || c == ' ' || c == '_')
        .filter(|word| !word.is_empty());
    let count: u64 = words.next()?.parse().ok()?;
    let unit = match words.next()?.trim_end_matches('s') {
        "second" => 1,
        "minute" => 60,
        "hour" => 60 * 60,
        "day" => DAY,
        "week" => 7 * DAY,
        "month" => 30 * DAY,
        "year" => 365 * DAY,
        _ => return None,
    };
    match (words.next(), words.next()) {
        (Some("ago") | None, None) => Some(Expiry::After(Duration::from_secs(count.checked_mul(unit)?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them_to_git() {
        let said = |text: &str| expiry(text.into());
        let after = |seconds| Some(Expiry::After(Duration::from_secs(seconds)));
        assert_eq!(said("now"), Some(Expiry::Now));
        assert_eq!(said("never"), Some(Expiry::Never));
        assert_eq!(said("2.weeks.ago"), after(14 * DAY));
        assert_eq!(said("3 days"), after(3 * DAY));
        assert_eq!(said("1.Hour.Ago"), after(3_600));
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        assert_eq!(said("@1600000000"), Some(Expiry::Before(then)));
        for nonsense in ["", "soon", "2", "2.fortnights.ago", "2.weeks.hence", "-1.days.ago"] {
            assert_eq!(said(nonsense), None, "{nonsense}");
        }
    }
}
