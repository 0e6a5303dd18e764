//! What `.gitignore` and `info/exclude` say (gitignore(5)). Nothing else is asked: `core.excludesFile` names a file outside of the workspace.

use std::{path::Path, sync::Arc};

use bstr::BStr;
use gix::{glob::pattern::Case, ignore::search::Ignore};

/// A `.gitignore` longer than this is no list of patterns.
pub(super) const MAX_BYTES: u64 = 4 << 20;

/// The patterns that hold in a directory: its own last, and those win.
#[derive(Debug, Clone)]
pub(super) struct Ignores {
    search: Arc<gix::ignore::Search>,
    case: Case,
}

impl Ignores {
    /// Those that hold everywhere.
    pub(super) fn of_repository(common_dir: &Path, ignore_case: bool) -> Self {
        let mut search = gix::ignore::Search::default();
        let path = common_dir.join("info/exclude");
        if std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_BYTES)
            && let Ok(bytes) = std::fs::read(&path)
        {
            let _ = search.add_patterns_buffer(&bytes, path, None, Ignore::default());
        }
        Ignores {
            search: Arc::new(search),
            case: if ignore_case { Case::Fold } else { Case::Sensitive },
        }
    }

    /// With what the `.gitignore` of the directory `dir`, which is in the tree at `root`, says.
    pub(super) fn with(&self, root: &Path, dir: &Path, bytes: &[u8]) -> Self {
        let mut search = (*self.search).clone();
        let file = root.join(dir).join(".gitignore");
        if let Err(error) = search.add_patterns_buffer(bytes, file.clone(), Some(root), Ignore::default()) {
            tracing::warn!(file = %file.display(), %error, "a .gitignore is not understood");
        }
        Ignores {
            search: Arc::new(search),
            case: self.case,
        }
    }

    /// Whether a path is ignored by a pattern for itself; of what is in an ignored directory everything is.
    pub(super) fn match_path(&self, path: &BStr, is_dir: bool) -> bool {
        self.search
            .pattern_matching_relative_path(path, Some(is_dir), self.case)
            .is_some_and(|found| !found.pattern.is_negative())
    }
}
