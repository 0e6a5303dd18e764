use std::num::NonZeroU32;

use bstr::{BStr, BString, ByteSlice};
use gix::hash::ObjectId;

/// The wire protocol a client asked for with `Git-Protocol: version=N` (gitprotocol-v2). The highest version named wins; unknown text means 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Version {
    /// The original protocol.
    #[default]
    V0,
    /// The original protocol behind a `version 1` line.
    V1,
    /// Commands.
    V2,
}

impl Version {
    /// Reads the value of a `Git-Protocol` header: colon-separated keys, of which `version=N` is ours.
    pub fn from_header(value: &[u8]) -> Self {
        value
            .split(|b| *b == b':')
            .filter_map(|key| key.strip_prefix(b"version="))
            .map(|v| match v {
                b"2" => Version::V2,
                b"1" => Version::V1,
                _ => Version::V0,
            })
            .max()
            .unwrap_or_default()
    }
}

/// How a client bounds history. git rejects a depth beside the other two, so the type does too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deepen {
    /// `deepen N`, with `deepen-relative` counted from the client's present boundary.
    Depth {
        /// The number of commits to keep along every path.
        depth: NonZeroU32,
        /// Whether to count from the client's shallow commits instead of from the wants.
        relative: bool,
    },
    /// `deepen-since` and `deepen-not`, alone or together.
    RevList {
        /// Commits older than this (seconds since the epoch) are cut off.
        since: Option<i64>,
        /// Commits reachable from these refs are cut off. Names as the client sent them.
        not: Vec<BString>,
    },
}

/// A partial-clone filter (`git rev-list --filter`): which objects are left out of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `blob:none`
    BlobNone,
    /// `blob:limit=<n>`: blobs of at least this many bytes are left out.
    BlobLimit(u64),
    /// `tree:<depth>`: trees and blobs at this depth from the root or deeper are left out; the root tree has depth 0.
    TreeDepth(u64),
    /// `object:type=<type>`: only objects of this type.
    ObjectType(gix::objs::Kind),
    /// `sparse:oid=<oid-ish>`: blobs outside of the sparse specification in that blob are left out. The text is an object id or `<ref>:<path>`.
    SparseOid(BString),
    /// `combine:<a>+<b>`: objects that pass every filter.
    Combine(Vec<Filter>),
}

/// Why a filter specification is refused. The text is what C git says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Not a specification at all.
    #[error("invalid filter-spec '{spec}'")]
    Invalid {
        /// What was sent.
        spec: BString,
    },
    /// More than a few filters combined.
    #[error("too many filters combined")]
    TooMany,
}

impl Filter {
    /// The most filters one `combine:` may hold, nested ones counted.
    pub const MAX_COMBINED: usize = 32;

    /// Parses a specification as `git clone --filter` takes it. Numbers may carry `k`, `m` or `g`.
    pub fn parse(spec: &BStr) -> Result<Filter, FilterError> {
        let mut budget = Self::MAX_COMBINED;
        Self::parse_within(spec, &mut budget)
    }

    fn parse_within(spec: &BStr, budget: &mut usize) -> Result<Filter, FilterError> {
        let invalid = || FilterError::Invalid { spec: spec.to_owned() };
        *budget = budget.checked_sub(1).ok_or(FilterError::TooMany)?;
        if spec == "blob:none" {
            return Ok(Filter::BlobNone);
        }
        if let Some(n) = spec.strip_prefix(b"blob:limit=") {
            return number(n).map(Filter::BlobLimit).ok_or_else(invalid);
        }
        if let Some(n) = spec.strip_prefix(b"tree:") {
            return number(n).map(Filter::TreeDepth).ok_or_else(invalid);
        }
        if let Some(t) = spec.strip_prefix(b"object:type=") {
            return gix::objs::Kind::from_bytes(t)
                .map(Filter::ObjectType)
                .map_err(|_| invalid());
        }
        if let Some(oid) = spec.strip_prefix(b"sparse:oid=") {
            if oid.is_empty() {
                return Err(invalid());
            }
            return Ok(Filter::SparseOid(oid.into()));
        }
        if let Some(parts) = spec.strip_prefix(b"combine:") {
            let mut all = Vec::new();
            for part in parts.split(|b| *b == b'+') {
                let decoded = percent_decode(part).ok_or_else(invalid)?;
                all.push(Self::parse_within(decoded.as_bstr(), budget)?);
            }
            return if all.len() == 1 {
                Ok(all.remove(0))
            } else {
                Ok(Filter::Combine(all))
            };
        }
        Err(invalid())
    }

    /// The object id of a `sparse:oid=` filter that names one in full.
    pub fn sparse_id(text: &BStr) -> Option<ObjectId> {
        ObjectId::from_hex(text).ok()
    }

    /// The name under which `uploadpackfilter.<name>.allow` speaks of this filter.
    pub fn config_name(&self) -> &'static str {
        match self {
            Filter::BlobNone => "blob:none",
            Filter::BlobLimit(_) => "blob:limit",
            Filter::TreeDepth(_) => "tree",
            Filter::ObjectType(_) => "object:type",
            Filter::SparseOid(_) => "sparse:oid",
            Filter::Combine(_) => "combine",
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let (digits, factor) = match text.last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1u64),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits)
        .ok()?
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_git_writes_them() {
        let check = |spec: &str| Filter::parse(spec.into());
        assert_eq!(check("blob:none"), Ok(Filter::BlobNone));
        assert_eq!(check("blob:limit=1k"), Ok(Filter::BlobLimit(1024)));
        assert_eq!(check("tree:0"), Ok(Filter::TreeDepth(0)));
        assert_eq!(check("object:type=tag"), Ok(Filter::ObjectType(gix::objs::Kind::Tag)));
        assert_eq!(
            check("combine:blob:none+tree%3A2"),
            Ok(Filter::Combine(vec![Filter::BlobNone, Filter::TreeDepth(2)]))
        );
        for bad in [
            "",
            "blob",
            "blob:limit=",
            "blob:limit=-1",
            "tree:x",
            "object:type=x",
            "sparse:oid=",
            "combine:%",
        ] {
            assert!(check(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(check(&format!("combine:{}", vec!["blob:none"; 40].join("+"))).is_err());
    }

    #[test]
    fn the_highest_version_wins() {
        assert_eq!(Version::from_header(b"version=2"), Version::V2);
        assert_eq!(Version::from_header(b"x=y:version=1"), Version::V1);
        assert_eq!(Version::from_header(b"version=1:version=2"), Version::V2);
        assert_eq!(Version::from_header(b"version=9"), Version::V0);
        assert_eq!(Version::from_header(b""), Version::V0);
    }
}
