use bstr::{BString, ByteSlice};
use gix::{
    hash::{ObjectId, oid},
    objs::Kind,
};

use super::{
    CommitInfo, Conflict, Merge, ReadError, TreeEditError,
    commit::{commit_of, read_commit},
    merge_trees,
    record::person,
};
use crate::{
    base::{Clock, Fault, SystemClock},
    repo::{
        ConnectivityError, RefLog, RefOutcome, RefUpdate, RefValue, RefsError, Repository, SinkForm, StoreError,
        WriteError,
    },
};

/// Commits of a range.
const COMMITS: usize = 1_000_000;
/// Subjects that are listed in a message.
const SUBJECTS: usize = 200;

/// How a range of commits becomes one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SquashOptions {
    /// The last commit before the range; `None` when the range begins with the first commit.
    pub from: Option<ObjectId>,
    /// The commit that the new one is put on; by default the tip of the branch when it is continued, else `from`.
    pub onto: Option<ObjectId>,
    /// Continue the branch when it exists.
    pub append: bool,
    /// The message; by default the task, or how many checkpoints there were, and the subjects of those that changed files.
    pub message: Option<String>,
    /// Name and address of author and committer.
    pub author: (String, String),
    /// Seconds since the epoch; by default, now.
    pub seconds: Option<i64>,
}

impl Default for SquashOptions {
    fn default() -> Self {
        SquashOptions {
            from: None,
            onto: None,
            append: false,
            message: None,
            author: ("Gitstead".to_owned(), "gitstead@gitstead.invalid".to_owned()),
            seconds: None,
        }
    }
}

/// One commit instead of many.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Squashed {
    /// The new commit.
    pub commit: ObjectId,
    /// Its parent.
    pub parent: Option<ObjectId>,
    /// The branch that it is on, in full.
    pub branch: BString,
    /// How many commits it stands for.
    pub commits: usize,
}

/// What came of a squash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Squash {
    /// There is a new commit.
    Done(Squashed),
    /// What the range changed does not go together with what it is put on. Nothing was made.
    Conflicts(Vec<Conflict>),
}

/// Why there is no new branch or commit. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SquashError {
    /// A commit could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The new tree could not be made.
    #[error(transparent)]
    Tree(#[from] TreeEditError),
    /// The new commit could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Refs could not be read or written.
    #[error(transparent)]
    Refs(#[from] RefsError),
    /// The workspaces could not be listed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not everything that the commit reaches is here.
    #[error("not everything of that commit is here")]
    Incomplete(#[from] ConnectivityError),
    /// The range does not begin where it was said.
    #[error("{from} is not among the first parents of {to}")]
    NotInRange {
        /// The commit before the range.
        from: ObjectId,
        /// The last commit of the range.
        to: ObjectId,
    },
    /// The range changed nothing that is not there already.
    #[error("there is nothing to put together: no file differs")]
    Empty,
    /// There is such a branch.
    #[error("branch '{branch}' exists already")]
    Exists {
        /// The branch, in full.
        branch: BString,
    },
    /// A workspace is on the branch, and its files would not follow.
    #[error("branch '{branch}' is checked out in a workspace")]
    CheckedOut {
        /// The branch, in full.
        branch: BString,
    },
    /// The ref was not moved.
    #[error("cannot update '{branch}': {why}")]
    Refused {
        /// The branch, in full.
        branch: BString,
        /// What stood in the way.
        why: String,
    },
}

impl SquashError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            SquashError::Read(err) => err.fault(),
            SquashError::Tree(err) => err.fault(),
            SquashError::Write(err) => err.fault(),
            SquashError::Refs(err) => err.fault(),
            SquashError::Store(err) => err.fault(),
            SquashError::Incomplete(err) => err.fault(),
            SquashError::NotInRange { .. }
            | SquashError::Empty
            | SquashError::Exists { .. }
            | SquashError::CheckedOut { .. }
            | SquashError::Refused { .. } => Fault::Client,
        }
    }
}

/// Puts the commits after `from` up to `to`, along first parents, into one commit on `branch`: the trail of an agent as people want to read it. The trail itself stays
/// as it is, and its trailers are not taken over.
///
/// Where the new commit is put on something else than `from`, the range is merged with that; conflicts leave everything as it is.
///
/// ```
/// use gitstead::checkpoint::{Squash, SquashOptions, resolve, squash};
/// # use gitstead::{checkpoint::Checkpoint, workspace::Workspace};
///
/// # let dir = tempfile::tempdir()?;
/// # let git = dir.path().join(".git");
/// # for sub in ["objects", "refs/heads"] { std::fs::create_dir_all(git.join(sub))?; }
/// # std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n")?;
/// # let path = dir.path();
/// # let workspace = Workspace::open(path)?;
/// # workspace.checkpoint(Checkpoint::initial("Analyze sales data"))?;
/// # std::fs::write(path.join("report.md"), "# Report\n")?;
/// # workspace.checkpoint(Checkpoint::after("Write", "Created report.md"))?;
/// let repository = workspace.repository();
/// let to = resolve(repository, "main")?;
/// if let Squash::Done(squashed) = squash(repository, &to, "for-people", &SquashOptions::default())? {
///     assert_eq!(resolve(repository, "for-people")?, squashed.commit);
///     assert_eq!(squashed.commits, 2);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `Exists` when there is such a branch that is not to be continued, `CheckedOut` when a workspace is on it, `NotInRange`, `Empty`; nothing has changed then.
pub fn squash(repository: &Repository, to: &oid, branch: &str, options: &SquashOptions) -> Result<Squash, SquashError> {
    let _held = repository.hold_objects().map_err(ReadError::from)?;
    let odb = repository.odb().map_err(ReadError::from)?;
    let to = commit_of(&odb, to)?;
    let from = match &options.from {
        Some(from) => Some(commit_of(&odb, from)?),
        None => None,
    };
    let (branch, tip) = free_branch(repository, branch, options.append)?;
    let onto = match options.onto.or(tip) {
        Some(onto) => Some(commit_of(&odb, &onto)?),
        None => from.clone(),
    };
    let range = read_range(repository, from.as_ref(), &to)?;
    let tree_of = |commit: &Option<CommitInfo>| commit.as_ref().map(|commit| commit.tree);
    let (base, ours) = (tree_of(&from), tree_of(&onto));
    let sink = repository.object_sink(SinkForm::Loose)?;
    let tree = if base == ours {
        to.tree
    } else {
        match merge_trees(&odb, &sink, base.as_deref(), ours.as_deref(), Some(&to.tree))? {
            Merge::Clean(tree) => tree,
            Merge::Conflicts(conflicts) => return Ok(Squash::Conflicts(conflicts)),
        }
    };
    let empty = ObjectId::empty_tree(repository.hash_kind());
    if tree == ours.unwrap_or(empty) {
        return Err(SquashError::Empty);
    }
    let message = match &options.message {
        Some(message) => cleaned(message),
        None => range.message(),
    };
    let parent = tip.or(onto.map(|onto| onto.id));
    let seconds = options.seconds.unwrap_or_else(|| SystemClock.seconds());
    let (name, email) = (person(&options.author.0), person(&options.author.1));
    let mut data = format!("tree {tree}\n");
    if let Some(parent) = parent {
        data.push_str(&format!("parent {parent}\n"));
    }
    for who in ["author", "committer"] {
        data.push_str(&format!("{who} {name} <{email}> {seconds} +0000\n"));
    }
    data.push('\n');
    data.push_str(&message);
    let commit = sink.write(Kind::Commit, data.as_bytes())?;
    sink.publish(true)?;
    repository.check_whole(&repository.odb().map_err(ReadError::from)?, &commit)?;
    let log = RefLog {
        name,
        email,
        seconds,
        message: format!("squash: {} commits", range.commits),
    };
    move_branch(repository, &branch, tip, commit, &log)?;
    Ok(Squash::Done(Squashed {
        commit,
        parent,
        branch,
        commits: range.commits,
    }))
}

/// Makes a branch at a commit. Its full name.
///
/// # Errors
/// `Exists` when there is such a branch, `CheckedOut` when a workspace waits for it to be born; and when the name is not one.
pub fn create_branch(repository: &Repository, commit: &oid, branch: &str) -> Result<BString, SquashError> {
    let _held = repository.hold_objects().map_err(ReadError::from)?;
    let odb = repository.odb().map_err(ReadError::from)?;
    let commit = commit_of(&odb, commit)?;
    repository.check_whole(&odb, &commit.id)?;
    let (branch, _) = free_branch(repository, branch, false)?;
    let (name, email) = SquashOptions::default().author;
    let log = RefLog {
        name,
        email,
        seconds: SystemClock.seconds(),
        message: format!("branch: Created from {}", commit.id),
    };
    move_branch(repository, &branch, None, commit.id, &log)?;
    Ok(branch)
}

/// The full name of a branch that no workspace is on, and where it is.
fn free_branch(
    repository: &Repository,
    branch: &str,
    may_exist: bool,
) -> Result<(BString, Option<ObjectId>), SquashError> {
    let short = branch.strip_prefix("refs/heads/").unwrap_or(branch);
    let full = BString::from(format!("refs/heads/{short}"));
    // As `git branch` has it.
    if short.starts_with('-') || short == "HEAD" {
        return Err(RefsError::Name { name: full }.into());
    }
    let value = repository.ref_value(full.as_bstr())?;
    if repository.checked_out_branches()?.contains(&full) {
        return Err(SquashError::CheckedOut { branch: full });
    }
    match value {
        RefValue::Absent => Ok((full, None)),
        RefValue::Id(tip) if may_exist => Ok((full, Some(tip))),
        RefValue::Id(_) | RefValue::Broken => Err(SquashError::Exists { branch: full }),
    }
}

fn move_branch(
    repository: &Repository,
    branch: &BString,
    old: Option<ObjectId>,
    new: ObjectId,
    log: &RefLog,
) -> Result<(), SquashError> {
    let update = RefUpdate {
        name: branch.clone(),
        old,
        new: Some(new),
    };
    let why = match repository.update_refs(&[update], true, log)?.into_iter().next() {
        Some(RefOutcome::Ok) => return Ok(()),
        Some(RefOutcome::Failed { detail, .. }) => detail,
        None => "nothing was updated".to_owned(),
    };
    Err(SquashError::Refused {
        branch: branch.clone(),
        why,
    })
}

/// What is to be said about a range.
struct Range {
    commits: usize,
    task: Option<String>,
    /// Of commits that changed something, the oldest first.
    subjects: Vec<String>,
    /// Of those, how many are not listed.
    more: usize,
}

fn read_range(repository: &Repository, from: Option<&CommitInfo>, to: &CommitInfo) -> Result<Range, SquashError> {
    let odb = repository.odb().map_err(ReadError::from)?;
    let boundary = repository.shallow()?;
    let mut range = Range {
        commits: 0,
        task: None,
        subjects: Vec::new(),
        more: 0,
    };
    // The newest first.
    let mut at = Some(to.clone());
    loop {
        let not_in_range = |from: &CommitInfo| SquashError::NotInRange {
            from: from.id,
            to: to.id,
        };
        let Some(commit) = at else {
            match from {
                Some(from) => return Err(not_in_range(from)),
                None => break,
            }
        };
        if from.is_some_and(|from| from.id == commit.id) {
            break;
        }
        range.commits += 1;
        if range.commits > COMMITS
            && let Some(from) = from
        {
            return Err(not_in_range(from));
        }
        let parent = match commit.parents.first() {
            Some(parent) if !boundary.contains(&commit.id) && range.commits <= COMMITS => {
                Some(read_commit(&odb, parent)?)
            }
            _ => None,
        };
        if let Some(task) = commit.checkpoint.as_ref().and_then(|said| said.task()) {
            range.task = Some(task.to_owned());
        } else if parent.as_ref().is_none_or(|parent| parent.tree != commit.tree) {
            range.subjects.push(commit.subject());
            // The oldest stay: they are wanted first.
            if range.subjects.len() > 2 * SUBJECTS {
                range.more += SUBJECTS;
                range.subjects.drain(..SUBJECTS);
            }
        }
        at = parent;
    }
    range.more += range.subjects.len().saturating_sub(SUBJECTS);
    range.subjects.reverse();
    range.subjects.truncate(SUBJECTS);
    Ok(range)
}

impl Range {
    fn message(&self) -> String {
        let mut out = match &self.task {
            Some(task) => task.clone(),
            None if self.commits == 1 => "1 checkpoint".to_owned(),
            None => format!("{} checkpoints", self.commits),
        };
        out.push('\n');
        if !self.subjects.is_empty() {
            out.push('\n');
        }
        for subject in &self.subjects {
            out.push_str(&format!("- {subject}\n"));
        }
        if self.more > 0 {
            out.push_str(&format!("- and {} more\n", self.more));
        }
        out
    }
}

/// A message as git would store it: no control characters but line ends and tabs, no white space at the ends of lines, one line end at its own.
fn cleaned(message: &str) -> String {
    let plain: String = message
        .chars()
        .filter(|c| matches!(c, '\n' | '\t') || !c.is_control())
        .collect();
    let lines: Vec<&str> = plain.lines().map(str::trim_end).collect();
    let text = lines.join("\n");
    match text.trim_matches('\n') {
        "" => "(no message)\n".to_owned(),
        text => format!("{text}\n"),
    }
}
