use bstr::{BStr, BString, ByteSlice};

/// Which refs a side of the server does not show: `transfer.hideRefs` and `uploadpack.hideRefs` or `receive.hideRefs` together, in the order of the
/// configuration (git-config(1), `transfer.hideRefs`).
///
/// The last entry that matches decides. An entry matches a whole ref name or a prefix of it that ends before a `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HideRefs {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// `!`: shown, whatever was said before.
    shown: bool,
    /// `^`: matched against the name with its namespace.
    full: bool,
    prefix: BString,
}

impl HideRefs {
    /// Gives `take` all that decides, so that two configurations are alike if and only if it was given the same.
    pub fn tell_apart(&self, take: &mut dyn FnMut(&[u8])) {
        take(&(self.rules.len() as u64).to_le_bytes());
        for rule in &self.rules {
            take(&[u8::from(rule.shown) | u8::from(rule.full) << 1]);
            take(&rule.prefix);
        }
    }

    /// Reads entries as the configuration has them.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a BStr>) -> Self {
        let rule = |entry: &BStr| {
            let mut rest = entry.as_bytes();
            let shown = rest.first() == Some(&b'!');
            rest = &rest[usize::from(shown)..];
            let full = rest.first() == Some(&b'^');
            rest = &rest[usize::from(full)..];
            let prefix = BString::from(rest.trim_end_with(|c| c == '/'));
            Rule { shown, full, prefix }
        };
        HideRefs {
            rules: entries.into_iter().map(rule).collect(),
        }
    }

    /// Nothing is hidden, so nobody needs to ask.
    pub fn is_empty(&self) -> bool {
        self.rules.iter().all(|rule| rule.shown)
    }

    /// Whether the ref is hidden. `stripped` is its name inside the namespace in use, `full` its name in the repository; without a namespace the two are the
    /// same.
    pub fn is_hidden(&self, stripped: &BStr, full: &BStr) -> bool {
        self.decide(stripped, full)
    }

    fn decide(&self, stripped: &BStr, full: &BStr) -> bool {
        for rule in self.rules.iter().rev() {
            let subject = if rule.full { full } else { stripped };
            if let Some(rest) = subject.strip_prefix(rule.prefix.as_slice())
                && (rest.is_empty() || rest[0] == b'/')
            {
                return !rule.shown;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(entries: &[&str], name: &str) -> bool {
        hidden_in(entries, name, name)
    }

    fn hidden_in(entries: &[&str], stripped: &str, full: &str) -> bool {
        HideRefs::new(entries.iter().map(|e| BStr::new(*e))).is_hidden(stripped.into(), full.into())
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        assert!(hidden(&["refs/pull"], "refs/pull/1/head"));
        assert!(hidden(&["refs/pull/"], "refs/pull/1/head"));
        assert!(hidden(&["refs/heads/main"], "refs/heads/main"));
        assert!(!hidden(&["refs/heads/main"], "refs/heads/mainly"));
        assert!(!hidden(&[], "refs/heads/main"));
        assert!(!hidden(&[""], "refs/heads/main"));
    }

    #[test]
    fn the_last_match_wins() {
        assert!(!hidden(&["refs", "!refs/heads"], "refs/heads/a"));
        assert!(hidden(&["refs", "!refs/heads"], "refs/tags/a"));
        assert!(hidden(&["!refs/heads", "refs"], "refs/heads/a"));
        assert!(hidden(&["refs/a", "!refs/a/b", "refs/a/b/c"], "refs/a/b/c"));
    }

    #[test]
    fn a_caret_matches_before_the_namespace_is_stripped() {
        let full = "refs/namespaces/x/refs/heads/a";
        assert!(hidden_in(&["refs/heads"], "refs/heads/a", full));
        assert!(!hidden_in(&["^refs/heads"], "refs/heads/a", full));
        assert!(hidden_in(&["^refs/namespaces/x/refs/heads"], "refs/heads/a", full));
        assert!(!hidden_in(
            &["^refs/namespaces/x", "!^refs/namespaces/x/refs/heads"],
            "refs/heads/a",
            full
        ));
    }
}
