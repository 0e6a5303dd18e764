use std::{fs::File, io::Read as _, path::PathBuf};

use bstr::{BString, ByteSlice as _};
use gix::hash::ObjectId;

use super::{Depot, DepotError};
use crate::{base::RepoName, repo::Head};

/// What there is to say about a repository without reading its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// The name it was asked for by.
    pub name: RepoName,
    /// Its git directory.
    pub git_dir: PathBuf,
    /// The hash of its objects.
    pub object_format: gix::hash::Kind,
    /// Whether it has no working tree.
    pub bare: bool,
    /// The full name of the ref that HEAD names; `None` if it holds an id itself or is broken.
    pub head: Option<BString>,
    /// What HEAD comes to; `None` while that branch has no commit.
    pub head_id: Option<ObjectId>,
    /// The text of `description`, unless it is git's placeholder.
    pub description: Option<String>,
}

impl Depot {
    /// Looks at a repository.
    pub fn details(&self, name: &RepoName) -> Result<Details, DepotError> {
        let repository = self.open(name)?;
        let head = repository.head(None).map_err(|source| DepotError::Refs {
            name: name.clone(),
            source,
        })?;
        let head_id = head.id();
        let head = match head {
            Head::Symbolic { target, .. } => Some(target),
            Head::Detached(_) | Head::Missing => None,
        };
        let git_dir = repository.git_dir().to_owned();
        let mut description = Vec::new();
        // A description that cannot be read is none; it is nothing but words.
        let _ = File::open(git_dir.join("description")).and_then(|file| file.take(4096).read_to_end(&mut description));
        let description = description.to_str_lossy().trim().to_owned();
        let said = !description.is_empty() && !description.starts_with("Unnamed repository");
        Ok(Details {
            name: name.clone(),
            git_dir,
            object_format: repository.hash_kind(),
            bare: repository.is_bare(),
            head,
            head_id,
            description: said.then_some(description),
        })
    }
}
