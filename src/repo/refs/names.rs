//! Ref names (git-check-ref-format(1)), namespaces (gitnamespaces(7)) and sets of prefixes.

use bstr::{BStr, BString, ByteSlice};

use super::types::RefsError;

/// Whether `name` is a full ref name: `refs/…` by the rules of git-check-ref-format(1), or a root ref in capitals such as `HEAD`.
pub(super) fn is_valid(name: &[u8]) -> bool {
    if !name.starts_with(b"refs/") {
        return !name.is_empty()
            && name.len() <= 64
            && name.iter().all(|b| b.is_ascii_uppercase() || *b == b'_')
            && name.iter().any(|b| *b != b'_');
    }
    if name.len() > 4096 {
        return false;
    }
    let mut previous = b'/';
    for (at, &byte) in name.iter().enumerate() {
        let bad = match byte {
            0..=b' ' | 0x7f | b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\' => true,
            b'.' => previous == b'.' || previous == b'/',
            b'{' => previous == b'@',
            b'/' => (at > 0 && previous == b'/') || name.get(..at).is_some_and(|n| n.ends_with(b".lock")),
            _ => false,
        };
        if bad {
            return false;
        }
        previous = byte;
    }
    previous != b'/' && previous != b'.' && !name.ends_with(b".lock")
}

/// Refs that each worktree has for itself (gitrepository-layout(5)) and that are never packed.
pub(super) fn is_per_worktree(name: &[u8]) -> bool {
    !name.starts_with(b"refs/")
        || name.starts_with(b"refs/worktree/")
        || name.starts_with(b"refs/bisect/")
        || name.starts_with(b"refs/rewritten/")
}

/// The prefix that a namespace puts before its refs: empty without one, otherwise `refs/namespaces/a/refs/namespaces/b/` for `a/b`.
pub(super) fn namespace_prefix(namespace: Option<&BStr>) -> Result<BString, RefsError> {
    let mut prefix = BString::default();
    let Some(namespace) = namespace else { return Ok(prefix) };
    for part in namespace.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        prefix.extend_from_slice(b"refs/namespaces/");
        prefix.extend_from_slice(part);
        prefix.push(b'/');
    }
    match prefix.split_last() {
        Some((_, without_slash)) if !is_valid(without_slash) => Err(RefsError::name(namespace)),
        _ => Ok(prefix),
    }
}

/// The names that are directories above `name` and therefore cannot be refs beside it: `refs/a/b` for `refs/a/b/c`.
pub(super) fn ancestors(name: &BStr) -> impl Iterator<Item = &BStr> {
    name.find_iter(b"/")
        .skip(1)
        .map(|at| name.get(..at).unwrap_or_default().as_bstr())
}

/// A sorted set of prefixes of which none contains another, so that each name matches at most one.
#[derive(Debug)]
pub(super) struct Prefixes(Vec<BString>);

impl Prefixes {
    pub(super) fn new(mut all: Vec<BString>) -> Self {
        all.sort_unstable();
        let mut kept: Vec<BString> = Vec::with_capacity(all.len());
        for prefix in all {
            // Sorted, a prefix of this one stands right before the first of those it contains.
            if kept.last().is_none_or(|last| !prefix.starts_with(last)) {
                kept.push(prefix);
            }
        }
        Prefixes(kept)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &BStr> {
        self.0.iter().map(|p| p.as_bstr())
    }

    /// Whether a ref of this name was asked for.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let after = self.0.partition_point(|p| p.as_slice() <= name);
        after
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .is_some_and(|p| name.starts_with(p))
    }

    /// Whether refs beneath this directory (its name ends with a slash) may have been asked for.
    pub(super) fn may_be_beneath(&self, directory: &[u8]) -> bool {
        let from = self.0.partition_point(|p| p.as_slice() < directory);
        self.0.get(from).is_some_and(|p| p.starts_with(directory)) || self.matches(directory)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_are_judged_as_gix_judges_them(tail in "[a-c./@{}~^: *\\[\\\\lock\u{1}\u{7f}ü-]{0,12}") {
            let name = format!("refs/{tail}");
            prop_assert_eq!(
                is_valid(name.as_bytes()),
                gix::validate::reference::name(name.as_str().into()).is_ok(),
                "{}", name
            );
        }

        #[test]
        fn a_set_of_prefixes_matches_what_any_of_them_matches(
            prefixes in proptest::collection::vec("[ab/]{0,4}", 0..6),
            name in "[ab/]{0,6}",
        ) {
            let set = Prefixes::new(prefixes.iter().map(|p| p.as_str().into()).collect());
            let expected = prefixes.iter().any(|p| name.starts_with(p.as_str()));
            prop_assert_eq!(set.matches(name.as_bytes()), expected);
            let directory = format!("{name}/");
            let beneath = prefixes.iter().any(|p| directory.starts_with(p.as_str()) || p.starts_with(&directory));
            prop_assert_eq!(set.may_be_beneath(directory.as_bytes()), beneath);
        }
    }

    #[test]
    fn namespaces_nest() {
        let check = |namespace: &str| namespace_prefix(Some(namespace.into())).map(|p| p.to_string());
        assert_eq!(check("a").unwrap(), "refs/namespaces/a/");
        assert_eq!(check("a/b").unwrap(), "refs/namespaces/a/refs/namespaces/b/");
        assert_eq!(check("").unwrap(), "");
        for bad in ["..", "a b", "a.lock", ".a", "a/../b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn root_refs_are_capitals() {
        for good in ["HEAD", "ORIG_HEAD", "refs/heads/a"] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "", "head", "HEAD/x", "refs", "config", "refs/", "refs/a/", "refs//a", "/refs/a",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
