use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    Depot, DepotError,
    change::HIDDEN_PREFIX,
    layout::{self, Located, Shape},
};
use crate::base::RepoName;

/// Directories deeper than this below the root are not looked into when listing.
const MAX_DEPTH: usize = 32;
/// Repositories named by one listing.
const MAX_LISTED: usize = 100_000;
/// Directory entries looked at for one listing.
const MAX_VISITED: usize = 1_000_000;

/// One repository of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The shortest name that leads to it.
    pub name: RepoName,
    /// Its git directory.
    pub git_dir: PathBuf,
}

/// The repositories under the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by name.
    pub repositories: Vec<Listed>,
    /// Whether there may be more: the walk was stopped by a bound.
    pub truncated: bool,
}

impl Depot {
    /// Finds the repositories under the root. Does not look inside of repositories, nor at names that could not be asked for.
    pub fn list(&self) -> Result<Listing, DepotError> {
        let mut repositories = Vec::new();
        let truncated = self.walk(&mut |listed| repositories.push(listed), &mut |_| {})?;
        repositories.sort_by(|a: &Listed, b| a.name.cmp(&b.name));
        Ok(Listing {
            repositories,
            truncated,
        })
    }

    /// Walks the tree of names, telling of repositories and of left-over directories of ours. Says whether a bound stopped it.
    pub(super) fn walk(
        &self,
        found: &mut dyn FnMut(Listed),
        left_over: &mut dyn FnMut(&Path),
    ) -> Result<bool, DepotError> {
        let mut walk = Walk {
            depot: self,
            found,
            left_over,
            entered: HashSet::new(),
            listed: 0,
            visited: 0,
            truncated: false,
        };
        if let Some(meta) = layout::stat(&self.root)? {
            walk.entered.insert((meta.dev(), meta.ino()));
        }
        walk.directory(&self.root, "", 0)?;
        Ok(walk.truncated)
    }
}

struct Walk<'a> {
    depot: &'a Depot,
    found: &'a mut dyn FnMut(Listed),
    left_over: &'a mut dyn FnMut(&Path),
    /// Directories entered, by device and inode: symbolic links may make circles.
    entered: HashSet<(u64, u64)>,
    listed: usize,
    visited: usize,
    truncated: bool,
}

impl Walk<'_> {
    fn directory(&mut self, dir: &Path, name: &str, depth: usize) -> Result<(), DepotError> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            // It may have gone since, or be closed to us: what cannot be read cannot be served.
            Err(_) if depth > 0 => return Ok(()),
            Err(source) => return Err(DepotError::io("read", dir.to_owned(), source)),
        };
        for entry in entries.flatten() {
            self.visited += 1;
            if self.visited > MAX_VISITED || self.listed >= MAX_LISTED || depth >= MAX_DEPTH {
                self.truncated = true;
                return Ok(());
            }
            let file_name = entry.file_name();
            let Some(segment) = file_name.to_str() else { continue };
            let path = entry.path();
            if segment.starts_with(HIDDEN_PREFIX) {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    (self.left_over)(&path);
                }
                continue;
            }
            let Ok(meta) = fs::metadata(&path) else { continue };
            if !meta.is_dir() || segment == ".git" {
                continue;
            }
            let below = if name.is_empty() {
                segment.to_owned()
            } else {
                format!("{name}/{segment}")
            };
            let here = match layout::examine(&path.join(".git"), Shape::WorkTree)? {
                Some(located) => Some(located),
                None => layout::examine(&path, Shape::Bare)?,
            };
            match here {
                Some(located) => self.repository(located, &below)?,
                None if self.entered.insert((meta.dev(), meta.ino())) => self.directory(&path, &below, depth + 1)?,
                None => {}
            }
        }
        Ok(())
    }

    fn repository(&mut self, located: Located, text: &str) -> Result<(), DepotError> {
        let Ok(full) = RepoName::parse(text) else { return Ok(()) };
        let short = RepoName::parse(full.stem()).unwrap_or_else(|_| full.clone());
        // `a.git` is called `a`, unless there is another `a`.
        let name = match self.depot.locate(&short) {
            Ok(other) if other.git_dir == located.git_dir => short,
            _ => full,
        };
        if !self.depot.exported(&located.git_dir) {
            return Ok(());
        }
        self.listed += 1;
        (self.found)(Listed {
            name,
            git_dir: located.git_dir,
        });
        Ok(())
    }
}
