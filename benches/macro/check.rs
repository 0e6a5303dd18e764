//! Whether the answers are right: a fast wrong answer is no figure.

use std::{fs, path::Path};

use crate::{
    git::{git, git_with, text},
    wire::unpack_fetch,
};

/// How the answers to a workload are checked.
#[derive(Clone)]
pub(crate) enum Check {
    /// Both servers say the same, byte for byte, up to the agent's name.
    Same,
    /// A fetch: `want` must be complete at a client that had `have`.
    Pack {
        want: String,
        have: Option<String>,
        filter: bool,
    },
    /// A push: these refs must stand at these commits, and the repository must be whole.
    Refs(Vec<(String, String)>),
}

/// Objects in the pack of a fetch answer, once `git index-pack` has taken it and `git rev-list` has found nothing missing.
pub(crate) fn fetch(scratch: &Path, source: &Path, check: &Check, body: &[u8]) -> (u32, Vec<String>) {
    let Check::Pack { want, have, filter } = check else {
        return (0, Vec::new());
    };
    let (shallow, pack) = unpack_fetch(body);
    let client = scratch.join("client.git");
    let _ = fs::remove_dir_all(&client);
    git(scratch, &["init", "-q", "--bare", "client.git"]);
    if let Some(have) = have {
        let source = source.display().to_string();
        git(&client, &["fetch", "-q", &source, &format!("{have}:refs/heads/have")]);
    }
    let cut: String = shallow
        .iter()
        .filter_map(|line| line.strip_prefix("shallow "))
        .map(|id| format!("{id}\n"))
        .collect();
    if !cut.is_empty() {
        fs::write(client.join("shallow"), cut).expect("a file");
    }
    git_with(&client, &["index-pack", "--stdin", "--fix-thin"], &pack);
    let missing = if *filter { "--missing=print" } else { "--missing=error" };
    let listing = text(git(&client, &["rev-list", "--objects", missing, want]));
    let mut ids: Vec<String> = listing
        .lines()
        .filter(|line| !line.starts_with('?'))
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    ids.sort();
    ids.extend(shallow);
    let count = u32::from_be_bytes(pack[8..12].try_into().expect("four bytes"));
    (count, ids)
}

pub(crate) fn push(target: &Path, refs: &[(String, String)]) {
    for (name, id) in refs {
        assert_eq!(
            &text(git(target, &["rev-parse", name])),
            id,
            "{name} in {}",
            target.display()
        );
    }
    git(target, &["fsck", "--full", "--strict"]);
}

/// An answer without what each server says of itself.
pub(crate) fn neutral(body: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = body.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    lines.retain(|line| !line.windows(6).any(|w| w == b"agent="));
    lines
}
