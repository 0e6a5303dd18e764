use std::time::Duration;

use crate::repo::config::{BadValue, Config};

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
    /// `gc.pruneExpire` (two weeks): how long objects that nothing refers to are kept; `None` stands for `never`.
    pub prune_expire: Option<Duration>,
}

const DAY: u64 = 24 * 60 * 60;
const TWO_WEEKS: Duration = Duration::from_secs(14 * DAY);

/// How long ago a time is that is told as `2.weeks.ago`, `3 days` or `now`. `Some(None)` is never; `None` is nothing that is understood here.
pub fn parse_age(text: &str) -> Option<Option<Duration>> {
    match text {
        "never" | "false" => return Some(None),
        "now" | "all" => return Some(Some(Duration::ZERO)),
        _ => {}
    }
    let words: Vec<&str> = text.split([' ', '.', '-']).filter(|word| !word.is_empty()).collect();
    let (number, unit) = match words[..] {
        [number, unit] | [number, unit, "ago"] => (number.parse::<u64>().ok()?, unit),
        _ => return None,
    };
    let seconds = match unit.strip_suffix('s').unwrap_or(unit) {
        "second" => 1,
        "minute" => 60,
        "hour" => 60 * 60,
        "day" => DAY,
        "week" => 7 * DAY,
        "month" => 30 * DAY,
        "year" => 365 * DAY,
        _ => return None,
    };
    number.checked_mul(seconds).map(|age| Some(Duration::from_secs(age)))
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
        let prune_expire = match c.last("gc.pruneexpire") {
            None => Some(TWO_WEEKS),
            Some(said) => {
                let said = said.map(ToString::to_string).unwrap_or_default();
                parse_age(&said).unwrap_or_else(|| {
                    tracing::warn!(%said, "gc.pruneExpire is no age that is known here: nothing is dropped");
                    None
                })
            }
        };
        Ok(GcSettings {
            prune_expire,
            write_bitmaps: bitmaps,
            write_commit_graph: c.boolean("gc.writecommitgraph")?.unwrap_or(true),
            pack_refs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_as_git_tells_them() {
        let days = |n| Some(Some(Duration::from_secs(n * DAY)));
        assert_eq!(parse_age("2.weeks.ago"), days(14));
        assert_eq!(parse_age("3 days"), days(3));
        assert_eq!(parse_age("1.month"), days(30));
        assert_eq!(parse_age("now"), days(0));
        assert_eq!(parse_age("never"), Some(None));
        for odd in [
            "",
            "soon",
            "2",
            "weeks",
            "-1 days ago since",
            "99999999999999999999.days",
            "2024-01-01",
        ] {
            assert_eq!(parse_age(odd), None, "{odd}");
        }
        assert_eq!(parse_age(&format!("{}.years", u64::MAX)), None);
    }
}
