use bstr::{BString, ByteSlice};
use gix::hash::ObjectId;

use super::{
    ReadError,
    commit::{commit_of, read_commit},
};
use crate::repo::{RefValue, RefsError, Repository};

/// Commits that `~` goes back at most.
const STEPS: usize = 1_000_000;

/// The commit that a text names, as git understands it: an id or the beginning of one (four digits at least), a branch, a tag, a ref in full, `HEAD` or `@`; and behind it
/// any number of `~n` (n first parents back) and `^n` (the n-th parent).
///
/// # Errors
/// `Unknown` when nothing is called so, `Ambiguous` when several commits are, and what reading objects brings.
pub fn resolve(repository: &Repository, text: &str) -> Result<ObjectId, ReadError> {
    let unknown = || ReadError::Unknown {
        name: text.chars().take(200).collect(),
    };
    let (name, mut suffix) = text.split_at(text.find(['~', '^']).unwrap_or(text.len()));
    let odb = repository.odb()?;
    let named = named(repository, name)?.ok_or_else(unknown)?;
    let mut commit = commit_of(&odb, &named)?;
    while let Some(way) = suffix.chars().next() {
        let digits = suffix[1..].bytes().take_while(u8::is_ascii_digit).count();
        let count = match &suffix[1..1 + digits] {
            "" => 1,
            digits => digits.parse().map_err(|_| unknown())?,
        };
        suffix = &suffix[1 + digits..];
        match way {
            '~' if count <= STEPS => {
                for _ in 0..count {
                    let parent = commit.parents.first().ok_or_else(unknown)?;
                    commit = read_commit(&odb, parent)?;
                }
            }
            '^' if count == 0 => {}
            '^' => {
                let parent = commit.parents.get(count - 1).ok_or_else(unknown)?;
                commit = read_commit(&odb, parent)?;
            }
            _ => return Err(unknown()),
        }
    }
    Ok(commit.id)
}

fn named(repository: &Repository, name: &str) -> Result<Option<ObjectId>, ReadError> {
    if name == "HEAD" || name == "@" {
        return Ok(repository.head(None)?.id());
    }
    let odb = repository.odb()?;
    let hash = repository.hash_kind();
    if name.len() == hash.len_in_hex()
        && let Ok(id) = ObjectId::from_hex(name.as_bytes())
    {
        return match odb.contains(&id)? {
            true => Ok(Some(id)),
            false => Err(ReadError::NotFound { id }),
        };
    }
    for prefix in ["", "refs/", "refs/tags/", "refs/heads/", "refs/remotes/"] {
        let full = BString::from(format!("{prefix}{name}"));
        if !full.starts_with(b"refs/") {
            continue;
        }
        match repository.ref_value(full.as_bstr()) {
            Ok(RefValue::Id(id)) => return Ok(Some(id)),
            Ok(_) | Err(RefsError::Name { .. }) => {}
            Err(err) => return Err(err.into()),
        }
    }
    let mut commits = Vec::new();
    for id in odb.ids_with_prefix(name, 1_000)? {
        if matches!(odb.header(&id)?, Some((gix::objs::Kind::Commit, _))) {
            commits.push(id);
        }
    }
    match commits.as_slice() {
        [] => Ok(None),
        [id] => Ok(Some(*id)),
        _ => Err(ReadError::Ambiguous { name: name.to_owned() }),
    }
}
