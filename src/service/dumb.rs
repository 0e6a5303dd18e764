use std::{io::Write, path::PathBuf};

use crate::repo::Repository;

use super::{
    Context, ServiceError,
    advertise::{Lines, finish},
    wants::Visible,
};

/// A file of a repository that clients of the dumb protocol may read (git-http-backend(1)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumbFile {
    /// Where it would be. It need not exist.
    pub path: PathBuf,
    /// Its content type.
    pub content_type: &'static str,
    /// Its name says what is in it, so it never changes.
    pub cache_forever: bool,
}

/// The file that `rel`, a path relative to the repository, names for clients of the dumb protocol; `None` for any other.
///
/// `info/refs` and `objects/info/packs` are not among them: those are made for each request. Where a namespace is served no file is given away: HEAD is that of the
/// whole repository, and objects say nothing of the namespace that they belong to.
pub fn dumb_file(repo: &Repository, ctx: &Context<'_>, rel: &str) -> Option<DumbFile> {
    if ctx.namespace.is_some() {
        return None;
    }
    let hex = repo.hash_kind().len_in_hex();
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let file = |path: PathBuf, content_type, cache_forever| {
        Some(DumbFile {
            path,
            content_type,
            cache_forever,
        })
    };
    if rel == "HEAD" {
        return file(repo.git_dir().join("HEAD"), "text/plain", false);
    }
    let below = rel.strip_prefix("objects/")?;
    let path = repo.objects_dir().join(below);
    match below.split_once('/')? {
        ("info", "alternates" | "http-alternates") => file(path, "text/plain", false),
        ("pack", name) => {
            let stem = name.strip_prefix("pack-")?;
            if stem.strip_suffix(".pack").is_some_and(|id| is_hex(id, hex)) {
                file(path, "application/x-git-packed-objects", true)
            } else if stem.strip_suffix(".idx").is_some_and(|id| is_hex(id, hex)) {
                file(path, "application/x-git-packed-objects-toc", true)
            } else {
                None
            }
        }
        (fan, rest) if is_hex(fan, 2) && is_hex(rest, hex - 2) => file(path, "application/x-git-loose-object", true),
        _ => None,
    }
}

/// Writes what `git update-server-info` would have written to `info/refs`, as refs are now.
///
/// # Errors
/// When refs cannot be read; `Write` when the client has gone.
pub fn dumb_info_refs(repo: &Repository, ctx: &Context<'_>, out: &mut dyn Write) -> Result<(), ServiceError> {
    let visible = Visible::load(repo, ctx, &repo.settings().hide_refs_upload, Vec::new(), true)?;
    let mut lines = Lines { out, buf: Vec::new() };
    for r in &visible.refs {
        let peeled = r.peeled.iter().map(|id| (id, "^{}"));
        for (id, mark) in std::iter::once((&r.id, "")).chain(peeled) {
            lines.buf.extend_from_slice(format!("{id}\t").as_bytes());
            lines.buf.extend_from_slice(&r.name);
            lines.buf.extend_from_slice(format!("{mark}\n").as_bytes());
        }
        lines.passed().map_err(ServiceError::Write)?;
    }
    finish(lines.out, &lines.buf)
}

/// Writes what `git update-server-info` would have written to `objects/info/packs`: the repository's own packs.
///
/// # Errors
/// `Write` when the client has gone.
pub fn dumb_info_packs(repo: &Repository, out: &mut dyn Write) -> Result<(), ServiceError> {
    let mut buf = Vec::new();
    for pack in repo.odb()?.packs() {
        let name = pack
            .path()
            .file_name()
            .filter(|_| pack.path().starts_with(repo.objects_dir()));
        if let Some(name) = name.and_then(|n| n.to_str()) {
            buf.extend_from_slice(format!("P {name}\n").as_bytes());
        }
    }
    buf.push(b'\n');
    finish(out, &buf)
}
