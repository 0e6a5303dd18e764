use std::{fmt, path::PathBuf, str::FromStr};

/// The name of a repository as it stands in a URL, without the prefix: `hello`, `team/app`, `team/app.git`.
///
/// Parsed once, trusted ever after: no segment is empty, `.` or `..`, none holds a separator of any system, a control character
/// or NUL, so joining it to a directory stays beneath that directory (symbolic links, which only the operator can have
/// placed there, aside).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(String);

/// Why a text is not a repository name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    #[error("a repository name must not be empty")]
    Empty,
    /// The name is longer than [`RepoName::MAX_BYTES`], or a segment longer than 255 bytes.
    #[error("the repository name is too long")]
    TooLong,
    /// A segment is empty, `.` or `..`.
    #[error("a repository name must not have empty, '.' or '..' segments")]
    Segment,
    /// `.git` where it would make the name a second name of something: twice at the end of a segment, or as a segment that is not the last of several.
    #[error("the repository name has '.git' where it cannot be")]
    Alias,
    /// A control character, a backslash, or another character that is never served.
    #[error("the repository name has a character that is not allowed")]
    Character,
    /// The name can be looked up but not created: new repositories have names of `[A-Za-z0-9._-]` segments that start with a letter, a digit or `_`
    /// and do not end in `.git`, `.lock` or a dot.
    #[error(
        "new repositories are named with letters, digits, '.', '_' and '-' in segments separated by '/'; a segment begins with a letter, a digit or '_' and does not end in '.', '.git' or '.lock'"
    )]
    NotForCreation,
}

impl RepoName {
    /// The longest name accepted, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Parses a name that may be looked up. Repositories made by others may have spaces or non-ASCII letters in their names.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong);
        }
        for segment in text.split('/') {
            if segment.is_empty() || segment == "." || segment == ".." {
                return Err(NameError::Segment);
            }
            if segment.len() > 255 {
                return Err(NameError::TooLong);
            }
            if segment.chars().any(|c| c.is_control() || c == '\\' || c == '\u{fffd}') {
                return Err(NameError::Character);
            }
            if segment.ends_with(".git.git") {
                return Err(NameError::Alias);
            }
        }
        // `.git` stands for the directory before it, so it has one before it and none after it.
        let mut before = text.rsplit('/').skip(1);
        if text == ".git" || before.any(|segment| segment == ".git") {
            return Err(NameError::Alias);
        }
        Ok(RepoName(text.to_owned()))
    }

    /// Whether a repository of this name may be created: a stricter grammar than for looking one up. One `.git` at the very end is allowed and
    /// means the same as without it.
    pub fn check_creatable(&self) -> Result<(), NameError> {
        let stem = self.stem();
        for segment in stem.split('/') {
            let first_ok = segment
                .bytes()
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
            let all_ok = segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            let lower = segment.to_ascii_lowercase();
            let end_ok = !lower.ends_with(".git") && !lower.ends_with(".lock") && !lower.ends_with('.');
            if !(first_ok && all_ok && end_ok) {
                return Err(NameError::NotForCreation);
            }
        }
        Ok(())
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one name of what this name may lead to, and what access is judged by: `a`, `a.git`, `a/.git` and `a.git/.git` are looked up in one another's
    /// place, so a rule about one is a rule about all. Looking a name up leads to nothing that has another canonical name.
    pub fn canonical(&self) -> &str {
        let text = self.0.strip_suffix("/.git").unwrap_or(&self.0);
        match text.strip_suffix(".git") {
            Some(stem) if !stem.is_empty() && !stem.ends_with('/') => stem,
            _ => text,
        }
    }

    /// The name without a `.git` at its end: what a repository that is created is called.
    pub fn stem(&self) -> &str {
        match self.0.strip_suffix(".git") {
            Some(stem) if !stem.is_empty() && !stem.ends_with('/') => stem,
            _ => &self.0,
        }
    }

    /// The name as a relative path.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(&self.0)
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepoName({:?})", self.0)
    }
}

impl FromStr for RepoName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::parse(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_not_names() {
        for bad in [
            "", "/a", "a/", "a//b", "..", "a/..", "../a", "a/./b", "a\0b", "a\\b", "a\nb",
        ] {
            assert!(RepoName::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in [
            "a",
            "a/b",
            "a.git",
            "team/app.git",
            "with space",
            "ünïcode",
            ".hidden",
            "..a",
        ] {
            assert!(RepoName::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn every_spelling_has_one_canonical_name() {
        for (text, canonical) in [
            ("a", "a"),
            ("a.git", "a"),
            ("a/.git", "a"),
            ("a.git/.git", "a"),
            ("t.git/a.git", "t.git/a"),
            ("a.GIT", "a.GIT"),
        ] {
            assert_eq!(RepoName::parse(text).unwrap().canonical(), canonical, "{text}");
        }
        for bad in [
            "a.git.git",
            "a.git.git/b",
            "a.git.git.git",
            ".git.git",
            ".git",
            "a/.git/.git",
            "a/.git/b",
            ".git/a",
        ] {
            assert_eq!(RepoName::parse(bad), Err(NameError::Alias), "{bad}");
        }
    }

    #[test]
    fn creation_is_stricter_than_lookup() {
        for good in ["a", "a.git", "team/app", "A-b_c.d", "_x"] {
            assert_eq!(
                RepoName::parse(good).and_then(|n| n.check_creatable()),
                Ok(()),
                "{good}"
            );
        }
        for bad in [
            "-a",
            ".a",
            "a b",
            "a.git/b",
            "a.git.git",
            "a.lock",
            "a.",
            "ü",
            "team/.git",
        ] {
            assert!(RepoName::parse(bad).and_then(|n| n.check_creatable()).is_err(), "{bad}");
        }
    }
}
