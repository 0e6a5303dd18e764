use bstr::{BStr, BString, ByteSlice};
use gix::{
    hash::{ObjectId, oid},
    objs::{Kind, tree::EntryKind},
};

use super::{
    changes::{ChangeKind, Changes, DiffOptions, FileChange, changes, class},
    is_binary,
    text::{Lines, quoted},
};
use crate::{checkpoint::ReadError, repo::Odb};

/// Digits of an id in an `index` line.
const ABBREV: usize = 10;

/// What can be said about a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PatchContent {
    /// Its lines were compared, and the text has those that differ.
    Text,
    /// Its lines were compared and counted; showing them would have passed [`DiffOptions::patch_bytes`].
    LeftOut,
    /// A side of it is not text.
    Binary,
    /// A side of it is larger than [`DiffOptions::file_bytes`].
    TooLarge,
    /// It was not read, because [`DiffOptions::read_bytes`] were read before it.
    NotRead,
}

/// One file that differs, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileDiff {
    /// Which file, and what became of it.
    pub change: FileChange,
    /// Lines that came, where lines were compared.
    pub added: Option<u32>,
    /// Lines that went, where lines were compared.
    pub removed: Option<u32>,
    /// What `patch` has.
    pub content: PatchContent,
    /// The difference as `git diff` writes it, from the line `diff --git` on.
    pub patch: BString,
}

/// The difference between two trees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Diff {
    /// In the order of their paths.
    pub files: Vec<FileDiff>,
    /// There are more files than [`DiffOptions::files`].
    pub more: bool,
    /// There were too many files to compare for renames of changed files.
    pub renames_skipped: bool,
}

impl Diff {
    /// All patches, one after the other.
    pub fn text(&self) -> BString {
        let mut out = BString::default();
        for file in &self.files {
            out.extend_from_slice(&file.patch);
        }
        out
    }

    /// As `git diff --numstat`: added, removed, path; `-` where lines were not compared.
    pub fn numstat(&self) -> BString {
        let mut out = BString::default();
        let number = |n: Option<u32>| n.map_or("-".to_owned(), |n| n.to_string());
        for file in &self.files {
            out.extend_from_slice(format!("{}\t{}\t", number(file.added), number(file.removed)).as_bytes());
            if let Some(old) = &file.change.old_path {
                out.extend_from_slice(&quoted("", old.as_bstr()));
                out.extend_from_slice(b" => ");
            }
            out.extend_from_slice(&quoted("", file.change.path.as_bstr()));
            out.push(b'\n');
        }
        out
    }
}

/// The difference between two trees, line by line; `None` is a tree without files. Attributes and drivers of the repository are not looked at: a file is binary when
/// there is a NUL in its first 8,000 bytes.
///
/// ```
/// use gitstead::checkpoint::{DiffOptions, diff, tree_of};
/// # use gitstead::{checkpoint::Checkpoint, workspace::Workspace};
///
/// # let dir = tempfile::tempdir()?;
/// # let git = dir.path().join(".git");
/// # for sub in ["objects", "refs/heads"] { std::fs::create_dir_all(git.join(sub))?; }
/// # std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n")?;
/// # let path = dir.path();
/// # let workspace = Workspace::open(path)?;
/// # std::fs::write(path.join("report.md"), "# Report\n")?;
/// # let before = workspace.checkpoint(Checkpoint::after("Write", "x"))?.commit.expect("recorded");
/// // From a checkpoint to what is in the workspace now.
/// std::fs::write(path.join("report.md"), "# Report\ntext\n")?;
/// let (live, _) = workspace.lock()?.live_tree()?;
/// let odb = workspace.repository().odb()?;
/// let from = tree_of(&odb, &before)?;
/// let diff = diff(&odb, Some(&from), Some(&live), &DiffOptions::default())?;
/// assert_eq!(diff.numstat(), "1\t0\treport.md\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When a tree or a file cannot be read.
pub fn diff(odb: &Odb, from: Option<&oid>, to: Option<&oid>, options: &DiffOptions) -> Result<Diff, ReadError> {
    let Changes {
        files,
        more,
        renames_skipped,
    } = changes(odb, from, to, options)?;
    let mut writer = Writer {
        odb,
        options,
        written: 0,
        read: 0,
    };
    let files = files
        .into_iter()
        .map(|change| writer.file(change))
        .collect::<Result<_, _>>()?;
    Ok(Diff {
        files,
        more,
        renames_skipped,
    })
}

struct Writer<'a> {
    odb: &'a Odb,
    options: &'a DiffOptions,
    written: usize,
    read: u64,
}

/// One side of a file.
type Entry = Option<(EntryKind, ObjectId)>;

impl Writer<'_> {
    fn file(&mut self, change: FileChange) -> Result<FileDiff, ReadError> {
        let mut file = FileDiff {
            added: None,
            removed: None,
            content: PatchContent::Text,
            patch: BString::default(),
            change,
        };
        let (from, to) = (file.change.from, file.change.to);
        if file.change.kind == ChangeKind::TypeChanged {
            // As git has it: the one went, the other came.
            self.part(&mut file, from, None)?;
            self.part(&mut file, None, to)?;
        } else {
            self.part(&mut file, from, to)?;
        }
        self.written += file.patch.len();
        Ok(file)
    }

    fn part(&mut self, file: &mut FileDiff, from: Entry, to: Entry) -> Result<(), ReadError> {
        header(&file.change, from, to, &mut file.patch);
        if from.map(|(_, id)| id) == to.map(|(_, id)| id) {
            file.added.get_or_insert(0);
            file.removed.get_or_insert(0);
            return Ok(());
        }
        let (before, after) = match (self.content(from)?, self.content(to)?) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(why), _) | (_, Err(why)) => {
                file.content = why;
                (file.added, file.removed) = (None, None);
                note(&file.change, from, to, why, &mut file.patch);
                return Ok(());
            }
        };
        if is_binary(&before) || is_binary(&after) {
            file.content = PatchContent::Binary;
            (file.added, file.removed) = (None, None);
            note(&file.change, from, to, PatchContent::Binary, &mut file.patch);
            return Ok(());
        }
        let lines = Lines::new(&before, &after);
        *file.added.get_or_insert(0) += lines.added();
        *file.removed.get_or_insert(0) += lines.removed();
        if before.is_empty() && after.is_empty() {
            return Ok(());
        }
        let without = file.patch.len();
        names(&file.change, from, to, &mut file.patch);
        let most = self.options.patch_bytes.saturating_sub(self.written);
        if !lines.write(self.options.context, most, &mut file.patch) {
            file.patch.truncate(without);
            file.content = PatchContent::LeftOut;
            note(&file.change, from, to, PatchContent::LeftOut, &mut file.patch);
        }
        Ok(())
    }

    /// A side's content, or why there is none.
    fn content(&mut self, entry: Entry) -> Result<Result<Vec<u8>, PatchContent>, ReadError> {
        let Some((kind, id)) = entry else {
            return Ok(Ok(Vec::new()));
        };
        if kind == EntryKind::Commit {
            return Ok(Ok(format!("Subproject commit {id}\n").into_bytes()));
        }
        let (kind, size) = self.odb.header(&id)?.ok_or(ReadError::Missing { id })?;
        if kind != Kind::Blob {
            return Err(ReadError::Malformed { id });
        }
        if size > self.options.file_bytes {
            return Ok(Err(PatchContent::TooLarge));
        }
        if self.read >= self.options.read_bytes {
            return Ok(Err(PatchContent::NotRead));
        }
        self.read += size;
        let mut data = Vec::new();
        self.odb.read(&id, &mut data)?.ok_or(ReadError::Missing { id })?;
        Ok(Ok(data))
    }
}

fn path_of(entry: Entry, prefix: &str, path: &BStr) -> BString {
    match entry {
        Some(_) => quoted(prefix, path),
        None => "/dev/null".into(),
    }
}

fn push(out: &mut BString, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn header(change: &FileChange, from: Entry, to: Entry, out: &mut BString) {
    let (old_path, path) = (change.path_before(), change.path.as_bstr());
    push(out, "diff --git ");
    out.extend_from_slice(&quoted("a/", old_path));
    push(out, " ");
    out.extend_from_slice(&quoted("b/", path));
    push(out, "\n");
    let mode = |kind: EntryKind| kind as u16;
    match (from, to) {
        (None, Some((kind, _))) => push(out, &format!("new file mode {:o}\n", mode(kind))),
        (Some((kind, _)), None) => push(out, &format!("deleted file mode {:o}\n", mode(kind))),
        (Some((was, _)), Some((is, _))) if was != is => {
            push(out, &format!("old mode {:o}\nnew mode {:o}\n", mode(was), mode(is)));
        }
        _ => {}
    }
    if let ChangeKind::Renamed { similarity } = change.kind {
        push(out, &format!("similarity index {similarity}%\nrename from "));
        out.extend_from_slice(&quoted("", old_path));
        push(out, "\nrename to ");
        out.extend_from_slice(&quoted("", path));
        push(out, "\n");
    }
    let (was, is) = (from.map(|(_, id)| id), to.map(|(_, id)| id));
    if was != is {
        let zero = was.or(is).map(|id| id.kind().null());
        let short = |id: Option<ObjectId>| match id.or(zero) {
            Some(id) => id.to_hex_with_len(ABBREV).to_string(),
            None => String::new(),
        };
        push(out, &format!("index {}..{}", short(was), short(is)));
        if let (Some((was, _)), Some((is, _))) = (from, to)
            && was == is
        {
            push(out, &format!(" {:o}", mode(is)));
        }
        push(out, "\n");
    }
    debug_assert!(from.is_none() || to.is_none() || from.map(|e| class(e.0)) == to.map(|e| class(e.0)));
}

/// The lines `---` and `+++`.
fn names(change: &FileChange, from: Entry, to: Entry, out: &mut BString) {
    for (sign, entry, prefix, path) in [
        ("--- ", from, "a/", change.path_before()),
        ("+++ ", to, "b/", change.path.as_bstr()),
    ] {
        push(out, sign);
        out.extend_from_slice(&path_of(entry, prefix, path));
        // Tells programs that read patches where a name with spaces ends.
        if entry.is_some() && path.contains(&b' ') {
            push(out, "\t");
        }
        push(out, "\n");
    }
}

/// The line that stands for content which is not shown.
fn note(change: &FileChange, from: Entry, to: Entry, why: PatchContent, out: &mut BString) {
    let (start, end) = match why {
        PatchContent::Binary => ("Binary files ", ""),
        PatchContent::TooLarge => ("Files ", ": too large to compare"),
        PatchContent::NotRead => ("Files ", ": not compared, because there is too much before them"),
        PatchContent::LeftOut | PatchContent::Text => ("Files ", ": left out, because there is too much before them"),
    };
    push(out, start);
    out.extend_from_slice(&path_of(from, "a/", change.path_before()));
    push(out, " and ");
    out.extend_from_slice(&path_of(to, "b/", change.path.as_bstr()));
    push(out, &format!(" differ{end}\n"));
}
