use std::{fmt, str::FromStr};

/// The name of a workspace of a repository: `main`, `session-7`. The directory in which an agent works has it, git's own directory for that worktree, and,
/// unless another is given, its branch.
///
/// Parsed once, trusted ever after: one component of a path on any system, no option, no ref lock, and what comes after `refs/heads/` in the name of a branch.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceName(String);

/// Why a text is not the name of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' cannot be the name of a workspace: up to 100 letters, digits, '.', '_' and '-', beginning with a letter, a digit or '_', without '..' and not \
     ending in '.', '.lock' or '.git'"
)]
pub struct WorkspaceNameError {
    /// The text, cut to a printable length.
    text: String,
}

impl WorkspaceName {
    /// The longest name accepted, in bytes: what is put before or after it still fits into 255.
    pub const MAX_BYTES: usize = 100;

    /// Parses a name.
    ///
    /// # Errors
    /// If the text does not follow the grammar that the error names.
    pub fn parse(text: &str) -> Result<Self, WorkspaceNameError> {
        let begins = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let consists = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let lower = text.to_ascii_lowercase();
        let ends = ![".lock", ".git", "."].iter().any(|end| lower.ends_with(end));
        let sound = begins && consists && ends && text.len() <= Self::MAX_BYTES && !text.contains("..");
        // A branch of that name could not be told from HEAD.
        if sound && lower != "head" {
            Ok(WorkspaceName(text.to_owned()))
        } else {
            let text = text.chars().filter(|c| !c.is_control()).take(120).collect();
            Err(WorkspaceNameError { text })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkspaceName({:?})", self.0)
    }
}

impl FromStr for WorkspaceName {
    type Err = WorkspaceNameError;
    fn from_str(s: &str) -> Result<Self, WorkspaceNameError> {
        Self::parse(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_and_a_branch() {
        for good in ["main", "session-7", "a.b_c", "_x", "7", &"a".repeat(100)] {
            let name = WorkspaceName::parse(good).unwrap();
            assert_eq!(name.as_str(), good);
            let branch = format!("refs/heads/{good}");
            assert!(
                gix::validate::reference::name(branch.as_str().into()).is_ok(),
                "{branch}"
            );
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "a/b",
            "a\\b",
            "a b",
            "a..b",
            "a.",
            "a.lock",
            "A.LOCK",
            "a.git",
            "HEAD",
            "head",
            "ü",
            "a\0",
            "a\n",
            &"a".repeat(101),
        ] {
            assert!(WorkspaceName::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
