use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    fmt,
    str::FromStr,
};

use bstr::{BString, ByteSlice};
use gix::{
    hash::{ObjectId, oid},
    objs::tree::EntryKind,
};

use super::{
    CommitInfo, ReadError,
    commit::{commit_of, read_commit, trimmed},
};
use crate::repo::{Odb, Repository, entry_at};

/// Entries of a page at most, whatever is asked for.
const MOST_ENTRIES: usize = 1_000;
/// Commits looked at for one page at most, whatever is asked for.
const MOST_COMMITS: usize = 1_000_000;
/// Bytes of commits in a page, after which it ends.
const PAGE_BYTES: usize = 16 << 20;
/// Ids of a cursor.
const CURSOR_IDS: usize = 10_000;

/// In which order, and along which parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LogOrder {
    /// Along first parents only: what happened here, unless somebody has merged it into his own work.
    FirstParent,
    /// Along all parents, the newest commit first.
    #[default]
    AllByDate,
}

/// What a log shall show.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogQuery {
    /// Only checkpoints of this tool.
    pub tool: Option<String>,
    /// Only checkpoints of this agent.
    pub agent: Option<String>,
    /// Only checkpoints of this session.
    pub session: Option<String>,
    /// Only commits after which this file or directory is another than in their first parent.
    pub path: Option<BString>,
    /// Only commits whose tree is another than their first parent's.
    pub only_changed: bool,
    /// Also commits that are not checkpoints. A filter by tool, agent or session leaves them out in any case.
    pub all_commits: bool,
    /// Along which parents.
    pub order: LogOrder,
    /// Commits of a page; at most 1,000.
    pub entries: usize,
    /// Commits looked at for a page, at most 1,000,000. A page may have fewer entries than it could, or none, and still not be the last.
    pub commits: usize,
}

impl Default for LogQuery {
    fn default() -> Self {
        LogQuery {
            tool: None,
            agent: None,
            session: None,
            path: None,
            only_changed: false,
            all_commits: true,
            order: LogOrder::AllByDate,
            entries: 50,
            commits: 20_000,
        }
    }
}

impl LogQuery {
    fn takes(&self, commit: &CommitInfo) -> bool {
        let Some(said) = &commit.checkpoint else {
            return self.all_commits && self.tool.is_none() && self.agent.is_none() && self.session.is_none();
        };
        let agrees = |wanted: &Option<String>, have: &Option<String>| wanted.is_none() || wanted == have;
        agrees(&self.tool, &said.tool) && agrees(&self.agent, &said.agent) && agrees(&self.session, &said.session)
    }
}

/// A commit of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogEntry {
    /// The commit.
    pub commit: CommitInfo,
    /// Its tree is another than its first parent's; that of a first commit, that it has files.
    pub changed: bool,
}

/// Where the next page begins. As text it is the id of a commit, or several with commas between them.
///
/// It stays true while commits are added. In a log along all parents, commits whose dates contradict their order may be seen twice on different pages.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogCursor(Vec<ObjectId>);

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for LogCursor {
    type Err = ReadError;

    fn from_str(text: &str) -> Result<Self, ReadError> {
        let ids: Vec<_> = text
            .split(',')
            .take(CURSOR_IDS + 1)
            .map(|hex| ObjectId::from_hex(hex.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|_| ReadError::Cursor)?;
        if ids.is_empty() || ids.len() > CURSOR_IDS {
            return Err(ReadError::Cursor);
        }
        Ok(LogCursor(ids))
    }
}

/// Some commits of a log, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogPage {
    /// The commits that the query takes.
    pub entries: Vec<LogEntry>,
    /// Where the next page begins. `None` when history ended.
    pub next: Option<LogCursor>,
    /// Commits that were looked at.
    pub walked: usize,
    /// Those of them that are no checkpoints, and were passed over for that.
    pub others: usize,
}

/// One page of the history of `tip`: a commit, or a tag of one. `after` is where an earlier page of the same query ended; `tip` does not matter then.
///
/// What a page costs is bounded by the query. History ends at a shallow boundary.
///
/// ```
/// use gitstead::checkpoint::{LogQuery, log};
/// # use gitstead::{checkpoint::Checkpoint, workspace::Workspace};
///
/// # let dir = tempfile::tempdir()?;
/// # let git = dir.path().join(".git");
/// # for sub in ["objects", "refs/heads"] { std::fs::create_dir_all(git.join(sub))?; }
/// # std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n")?;
/// # let workspace = Workspace::open(dir.path())?;
/// # workspace.checkpoint(Checkpoint::initial("Analyze sales data"))?;
/// # workspace.checkpoint(Checkpoint::after("Bash", "Ran it"))?;
/// let repository = workspace.repository();
/// let tip = repository.head(None)?.id().expect("there are commits");
/// let mut query = LogQuery::default();
/// query.tool = Some("Bash".to_owned());
/// let page = log(repository, &tip, None, &query)?;
/// assert_eq!(page.entries[0].commit.subject(), "[Bash] Ran it");
/// assert!(page.next.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// `NotFound` when there is no such commit, `Cursor` when `after` is not from this repository, and what reading objects brings.
pub fn log(
    repository: &Repository,
    tip: &oid,
    after: Option<&LogCursor>,
    query: &LogQuery,
) -> Result<LogPage, ReadError> {
    let odb = repository.odb()?;
    let mut walk = Walk {
        odb: &odb,
        boundary: repository.shallow()?.into_iter().collect(),
        order: query.order,
        queue: BinaryHeap::new(),
        seen: HashSet::new(),
        last: None,
    };
    match after {
        None => walk.add(commit_of(&odb, tip)?),
        Some(cursor) => {
            if query.order == LogOrder::FirstParent && cursor.0.len() != 1 {
                return Err(ReadError::Cursor);
            }
            for id in &cursor.0 {
                let commit = read_commit(&odb, id).map_err(|err| match err {
                    ReadError::Missing { .. } | ReadError::NotACommit { .. } => ReadError::Cursor,
                    err => err,
                })?;
                walk.add(commit);
            }
        }
    }
    let wanted = query.entries.clamp(1, MOST_ENTRIES);
    let most = query.commits.clamp(1, MOST_COMMITS);
    let mut page = LogPage {
        entries: Vec::new(),
        next: None,
        walked: 0,
        others: 0,
    };
    let mut bytes = 0;
    let mut at_path = AtPath {
        odb: &odb,
        path: query.path.as_ref().map(|path| trimmed(path.as_bstr()).to_owned()),
        last: None,
    };
    loop {
        if page.entries.len() == wanted || page.walked == most || bytes > PAGE_BYTES {
            page.next = walk.cursor();
            return Ok(page);
        }
        let Some((commit, parent_tree)) = walk.next()? else {
            return Ok(page);
        };
        page.walked += 1;
        let changed = match &parent_tree {
            Some(tree) => *tree != commit.tree,
            None => !commit.tree.is_empty_tree(),
        };
        page.others += usize::from(!query.all_commits && commit.checkpoint.is_none());
        if (query.only_changed && !changed)
            || !query.takes(&commit)
            || !at_path.differs(&commit.tree, parent_tree.as_ref())?
        {
            continue;
        }
        bytes += commit.weight();
        page.entries.push(LogEntry { commit, changed });
    }
}

/// Whether a path differs between a commit and its parent.
struct AtPath<'a> {
    odb: &'a Odb,
    path: Option<BString>,
    /// What a tree has there: the parent of the commit before is most often the next one.
    last: Option<(ObjectId, Option<(EntryKind, ObjectId)>)>,
}

impl AtPath<'_> {
    fn differs(&mut self, tree: &ObjectId, parent: Option<&ObjectId>) -> Result<bool, ReadError> {
        let Some(path) = &self.path else {
            return Ok(true);
        };
        if parent == Some(tree) {
            return Ok(false);
        }
        let look = |tree: &ObjectId| -> Result<_, ReadError> {
            match &self.last {
                Some((known, entry)) if known == tree => Ok(*entry),
                _ => Ok(entry_at(self.odb, tree, path.as_bstr())?),
            }
        };
        let here = look(tree)?;
        let there = match parent {
            Some(parent) => look(parent)?,
            None => None,
        };
        if let Some(parent) = parent {
            self.last = Some((*parent, there));
        }
        Ok(here != there)
    }
}

/// A commit that waits for its turn: the newest first, and among equals the one that was found first. Its message would be too much to hold for all.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    date: i64,
    found: Reverse<usize>,
    id: ObjectId,
}

struct Walk<'a> {
    odb: &'a Odb,
    boundary: HashSet<ObjectId>,
    order: LogOrder,
    queue: BinaryHeap<Waiting>,
    seen: HashSet<ObjectId>,
    /// The first parent of the commit before, when it need not be in the queue.
    last: Option<CommitInfo>,
}

impl Walk<'_> {
    fn add(&mut self, commit: CommitInfo) {
        match self.order {
            LogOrder::FirstParent => self.last = Some(commit),
            LogOrder::AllByDate => {
                if self.seen.insert(commit.id) {
                    let waiting = Waiting {
                        date: commit.committer.seconds,
                        found: Reverse(self.seen.len()),
                        id: commit.id,
                    };
                    self.queue.push(waiting);
                }
            }
        }
    }

    /// The next commit, and the tree of its first parent.
    fn next(&mut self) -> Result<Option<(CommitInfo, Option<ObjectId>)>, ReadError> {
        let commit = match self.order {
            LogOrder::FirstParent => self.last.take(),
            LogOrder::AllByDate => match self.queue.pop() {
                Some(waiting) => Some(read_commit(self.odb, &waiting.id)?),
                None => None,
            },
        };
        let Some(mut commit) = commit else {
            return Ok(None);
        };
        if self.boundary.contains(&commit.id) {
            commit.parents.clear();
        }
        let mut parent_tree = None;
        for (n, parent) in commit.parents.iter().enumerate() {
            if n > 0 && (self.order == LogOrder::FirstParent || self.seen.contains(parent)) {
                continue;
            }
            let parent = read_commit(self.odb, parent)?;
            if n == 0 {
                parent_tree = Some(parent.tree);
            }
            self.add(parent);
        }
        Ok(Some((commit, parent_tree)))
    }

    fn cursor(&self) -> Option<LogCursor> {
        let mut waiting: Vec<_> = self.queue.iter().collect();
        waiting.sort_by(|a, b| b.cmp(a));
        let ids: Vec<_> = waiting
            .into_iter()
            .map(|waiting| waiting.id)
            .chain(self.last.as_ref().map(|commit| commit.id))
            .take(CURSOR_IDS)
            .collect();
        (!ids.is_empty()).then_some(LogCursor(ids))
    }
}
