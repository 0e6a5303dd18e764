//! The resident index: what is tracked, as a tree of directories, so that a change costs its path and not the whole.

use std::{cmp::Ordering, ops::Deref, time::SystemTime};

use bstr::{BStr, BString, ByteSlice};
use gix::{hash::ObjectId, objs::tree::EntryKind};

/// What `lstat` says about a file, as far as git's index keeps it: seconds and nanoseconds, and the lower 32 bits of everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FileStat {
    pub(crate) mtime: (u32, u32),
    pub(crate) ctime: (u32, u32),
    pub(crate) dev: u32,
    pub(crate) ino: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u32,
}

impl FileStat {
    /// Of a `stat` structure of the system.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "the index keeps the lower 32 bits, and the types of the fields differ between systems"
    )]
    pub(crate) fn of(stat: &rustix::fs::Stat) -> Self {
        FileStat {
            mtime: (stat.st_mtime as u32, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime as u32, stat.st_ctime_nsec as u32),
            dev: stat.st_dev as u32,
            ino: stat.st_ino as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u32,
        }
    }

    /// Whether a file modified just after `then` could look as this one does: the clock of a file system moves in ticks.
    pub(crate) fn is_fresh(&self, then: SystemTime) -> bool {
        let then = then.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let newest = self.mtime.max(self.ctime);
        let file = std::time::Duration::new(u64::from(newest.0), newest.1.min(999_999_999));
        then.saturating_sub(file) < TICK
    }
}

/// No file system's clock is coarser than this by much.
pub(super) const TICK: std::time::Duration = std::time::Duration::from_millis(20);

/// A file, symbolic link or nested repository that is tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrackedFile {
    /// The object that holds its content; of a nested repository the commit it is at.
    pub(crate) id: ObjectId,
    /// What it looked like when its content was that.
    pub(crate) stat: FileStat,
    /// Never `Tree`.
    pub(crate) kind: EntryKind,
    pub(crate) flags: u8,
}

impl TrackedFile {
    /// `git update-index --skip-worktree`, sparse checkouts: it need not be there.
    pub(crate) const SKIP_WORKTREE: u8 = 1;
    /// `git update-index --assume-unchanged`: not looked at.
    pub(crate) const ASSUME_VALID: u8 = 2;
    /// `stat` may describe another content than `id`: it is looked at again.
    pub(crate) const RACY: u8 = 4;
    /// Hashed in the second in which it was modified: git, which compares seconds, might take a later content for this one.
    pub(crate) const SAME_SECOND: u8 = 8;
    /// `git add --intent-to-add`: there is a name and no content.
    pub(crate) const INTENT: u8 = 16;
    /// Not sure, in one of two ways.
    pub(super) const UNSURE: u8 = Self::RACY | Self::SAME_SECOND;
    /// What version 2 of an index has no room for.
    pub(super) const MORE: u8 = Self::SKIP_WORKTREE | Self::INTENT;

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A name in a directory. Most are short, and lie where they are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

/// As long as makes no difference to the size.
const SHORT: usize = 22;

impl Deref for Name {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Name::Short(len, bytes) => &bytes[..usize::from(*len).min(SHORT)],
            Name::Long(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Name {
    fn from(name: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (u8::try_from(name.len()), bytes.get_mut(..name.len())) {
            (Ok(len), Some(start)) => {
                start.copy_from_slice(name);
                Name::Short(len, bytes)
            }
            _ => Name::Long(name.into()),
        }
    }
}

/// What a name in a directory is.
#[derive(Debug)]
pub(crate) enum Node {
    File(TrackedFile),
    Dir(Box<Dir>),
}

/// A directory that has something tracked in it.
#[derive(Debug, Default)]
pub(crate) struct Dir {
    /// Sorted by the bytes of the names.
    nodes: Vec<(Name, Node)>,
    /// The tree object of the directory as it is here, when that is known to exist.
    pub(super) tree: Option<ObjectId>,
    /// Whether the objects of everything in it are known to exist, or those of its tree.
    pub(super) trusted: bool,
}

impl Dir {
    fn position(&self, name: &[u8]) -> Result<usize, usize> {
        self.nodes.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    /// What has that name.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Node> {
        self.position(name).ok().map(|at| &self.nodes[at].1)
    }

    /// Everything in it, sorted by the bytes of the names.
    pub(crate) fn nodes(&self) -> &[(Name, Node)] {
        &self.nodes
    }

    /// The positions of the nodes in the order of tree objects and of the index, where the name of a directory ends in a slash.
    pub(super) fn in_tree_order(&self) -> impl Iterator<Item = u32> + use<> {
        let len = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        // The two orders differ only where a directory's name begins another name.
        let may_differ = self.nodes.windows(2).any(|pair| {
            let [(a, node), (b, _)] = pair else { return false };
            matches!(node, Node::Dir(_)) && b.starts_with(a)
        });
        let mut order: Vec<u32> = Vec::new();
        if may_differ {
            order.extend(0..len);
            order.sort_by(|a, b| {
                let (a, b) = (&self.nodes[*a as usize], &self.nodes[*b as usize]);
                tree_order((&a.0, matches!(a.1, Node::Dir(_))), (&b.0, matches!(b.1, Node::Dir(_))))
            });
        }
        let as_it_is = if may_differ { 0..0 } else { 0..len };
        order.into_iter().chain(as_it_is)
    }

    pub(super) fn node(&self, at: u32) -> &(Name, Node) {
        &self.nodes[at as usize]
    }

    pub(super) fn dirs_mut(&mut self) -> impl Iterator<Item = (&[u8], &mut Dir)> {
        self.nodes.iter_mut().filter_map(|(name, node)| match node {
            Node::Dir(dir) => Some((&**name, &mut **dir)),
            Node::File(_) => None,
        })
    }

    /// The directory of that name in it.
    pub(super) fn dir_mut(&mut self, name: &[u8]) -> Option<&mut Dir> {
        match &mut self.position(name).ok().and_then(|at| self.nodes.get_mut(at))?.1 {
            Node::Dir(dir) => Some(dir),
            Node::File(_) => None,
        }
    }

    /// Room is made for an eighth more, not for twice as much: there are very many directories, and most do not grow.
    fn insert(&mut self, at: usize, node: (Name, Node)) {
        if self.nodes.len() == self.nodes.capacity() {
            self.nodes.reserve_exact((self.nodes.len() / 8).max(4));
        }
        self.nodes.insert(at, node);
    }

    /// Leaves nothing in it.
    pub(super) fn take_nodes(&mut self) -> Vec<(Name, Node)> {
        std::mem::take(&mut self.nodes)
    }

    pub(super) fn into_nodes(self) -> Vec<(Name, Node)> {
        self.nodes
    }

    /// Of nodes that come in the order of the index.
    pub(super) fn of(mut nodes: Vec<(Name, Node)>) -> Self {
        if !nodes.is_sorted_by(|a, b| *a.0 <= *b.0) {
            nodes.sort_by(|a, b| (*a.0).cmp(&b.0));
        }
        nodes.shrink_to_fit();
        Dir {
            nodes,
            tree: None,
            trusted: false,
        }
    }

    /// How many files there are below.
    pub(crate) fn files(&self) -> usize {
        let mut count = 0;
        let mut open = vec![self];
        while let Some(dir) = open.pop() {
            for (_, node) in &dir.nodes {
                match node {
                    Node::File(_) => count += 1,
                    Node::Dir(below) => open.push(below),
                }
            }
        }
        count
    }
}

fn tree_order(a: (&[u8], bool), b: (&[u8], bool)) -> Ordering {
    let common = a.0.len().min(b.0.len());
    let end = |(name, dir): (&[u8], bool)| match name.get(common) {
        Some(byte) => Some(*byte),
        None => dir.then_some(b'/'),
    };
    a.0[..common]
        .cmp(&b.0[..common])
        .then_with(|| end(a).cmp(&end(b)))
        .then_with(|| a.0.len().cmp(&b.0.len()))
}

/// What is tracked in a workspace.
#[derive(Debug, Default)]
pub(crate) struct Tracked {
    pub(super) root: Dir,
    count: usize,
    /// The version of the index that it was read from; 0 if from none.
    version: u32,
    /// Whether an entry may have flags that version 2 of an index has no room for.
    has_more_flags: bool,
    /// The paths of files that may be unsure, more than once perhaps; `None` when they are too many to be named.
    unsure: Unsure,
}

#[derive(Debug)]
struct Unsure(Option<Vec<BString>>);

impl Default for Unsure {
    fn default() -> Self {
        Unsure(Some(Vec::new()))
    }
}

/// Of files that are not sure so many are known by name.
const NAMED: usize = 4_096;

impl Unsure {
    fn note(&mut self, path: &BStr, flags: u8) {
        if flags & TrackedFile::UNSURE != 0 {
            match &mut self.0 {
                Some(paths) if paths.len() < NAMED => paths.push(path.to_owned()),
                unsure => *unsure = None,
            }
        }
    }
}

impl Tracked {
    /// What an index of that version says, which has so many files in it.
    pub(super) fn of_index(root: Dir, count: usize, version: u32) -> Self {
        Tracked {
            root,
            count,
            version,
            // Nobody has looked.
            has_more_flags: true,
            unsure: Unsure(None),
        }
    }

    /// As [`of_index`](Self::of_index), where it is known whether there are entries with more flags, and which files are unsure.
    pub(super) fn with_known(mut self, has_more_flags: bool, unsure: Vec<BString>) -> Self {
        self.has_more_flags = has_more_flags;
        self.unsure = Unsure((unsure.len() < NAMED).then_some(unsure));
        self
    }

    /// Whether an entry may have flags that version 2 of an index has no room for.
    pub(super) fn may_have_more_flags(&self) -> bool {
        self.has_more_flags
    }

    /// The version of the index that it was read from.
    pub(super) fn version(&self) -> Option<u32> {
        (self.version != 0).then_some(self.version)
    }

    /// How many files are tracked.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The root directory.
    pub(crate) fn root(&self) -> &Dir {
        &self.root
    }

    /// What a path is. The empty path is no node.
    pub(crate) fn node(&self, path: &BStr) -> Option<&Node> {
        let mut dir = &self.root;
        let mut names = path.split(|b| *b == b'/');
        let mut name = names.next()?;
        loop {
            let node = dir.get(name)?;
            match (names.next(), node) {
                (None, node) => return Some(node),
                (Some(next), Node::Dir(below)) => (dir, name) = (below, next),
                (Some(_), Node::File(_)) => return None,
            }
        }
    }

    /// Whether nothing is tracked at a path, nor is one of the directories that it would be in a file.
    pub(super) fn is_free(&self, path: &BStr) -> bool {
        let above = path.rfind_byte(b'/').unwrap_or(0);
        let mut ends = path[..above].find_iter(b"/").chain((above > 0).then_some(above));
        self.node(path).is_none() && !ends.any(|end| self.get(path[..end].as_bstr()).is_some())
    }

    /// The file at a path.
    pub(crate) fn get(&self, path: &BStr) -> Option<&TrackedFile> {
        match self.node(path)? {
            Node::File(file) => Some(file),
            Node::Dir(_) => None,
        }
    }

    /// The directory at a path; of the empty path the root.
    pub(crate) fn dir(&self, path: &BStr) -> Option<&Dir> {
        if path.is_empty() {
            return Some(&self.root);
        }
        match self.node(path)? {
            Node::Dir(dir) => Some(dir),
            Node::File(_) => None,
        }
    }

    /// Tracks a file. What is in its way, above or below, is no longer tracked.
    pub(crate) fn set(&mut self, path: &BStr, file: TrackedFile) {
        self.unsure.note(path, file.flags);
        self.has_more_flags |= file.has(TrackedFile::MORE);
        let mut dir = &mut self.root;
        let mut names = path.split(|b| *b == b'/').peekable();
        while let Some(name) = names.next() {
            let at = dir.position(name);
            if names.peek().is_none() {
                match at {
                    Ok(at) => {
                        match &mut dir.nodes[at].1 {
                            Node::File(old) => {
                                if (old.id, old.kind) != (file.id, file.kind) || old.has(TrackedFile::INTENT) {
                                    dir.tree = None;
                                }
                            }
                            Node::Dir(old) => {
                                self.count = self.count - old.files() + 1;
                                dir.tree = None;
                            }
                        }
                        dir.nodes[at].1 = Node::File(file);
                    }
                    Err(at) => {
                        dir.insert(at, (Name::from(name), Node::File(file)));
                        dir.tree = None;
                        self.count += 1;
                    }
                }
                break;
            }
            let at = match at {
                Ok(at) => {
                    if matches!(dir.nodes[at].1, Node::File(_)) {
                        self.count -= 1;
                        dir.nodes[at].1 = Node::Dir(Box::default());
                    }
                    at
                }
                Err(at) => {
                    dir.insert(at, (Name::from(name), Node::Dir(Box::default())));
                    at
                }
            };
            let Node::Dir(below) = &mut dir.nodes[at].1 else {
                unreachable!("made one just now");
            };
            dir = below;
        }
        self.forget_stale(path);
    }

    /// A tree above one that is not known is not known either.
    fn forget_stale(&mut self, path: &BStr) {
        fn go(dir: &mut Dir, path: &[u8]) -> bool {
            let (name, rest) = match path.find_byte(b'/') {
                Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
                None => (path, None),
            };
            if let (Some(rest), Ok(at)) = (rest, dir.position(name))
                && let Node::Dir(below) = &mut dir.nodes[at].1
                && !go(below, rest)
            {
                dir.tree = None;
            }
            dir.tree.is_some()
        }
        go(&mut self.root, path);
    }

    /// Stops tracking a file, or everything in a directory. Says whether there was something.
    pub(crate) fn remove(&mut self, path: &BStr) -> bool {
        fn go(dir: &mut Dir, path: &[u8]) -> usize {
            let (name, rest) = match path.find_byte(b'/') {
                Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
                None => (path, None),
            };
            let Ok(at) = dir.position(name) else { return 0 };
            let removed = match (&mut dir.nodes[at].1, rest) {
                (Node::File(_), Some(_)) => 0,
                (Node::File(_), None) => {
                    dir.nodes.remove(at);
                    1
                }
                (Node::Dir(below), None) => {
                    let files = below.files();
                    dir.nodes.remove(at);
                    files
                }
                (Node::Dir(below), Some(rest)) => {
                    let removed = go(below, rest);
                    if below.nodes.is_empty() {
                        dir.nodes.remove(at);
                    }
                    removed
                }
            };
            if removed > 0 {
                dir.tree = None;
            }
            removed
        }
        let removed = go(&mut self.root, path);
        self.count -= removed;
        removed > 0
    }

    /// Changes the flags of a file that is tracked; its content stays what it is.
    pub(crate) fn restat(&mut self, path: &BStr, stat: FileStat, flags: u8) {
        self.unsure.note(path, flags);
        self.has_more_flags |= flags & TrackedFile::MORE != 0;
        let mut dir = &mut self.root;
        let mut names = path.split(|b| *b == b'/').peekable();
        while let Some(name) = names.next() {
            let Ok(at) = dir.position(name) else { return };
            match &mut dir.nodes[at].1 {
                Node::File(file) if names.peek().is_none() => {
                    (file.stat, file.flags) = (stat, flags);
                    return;
                }
                Node::Dir(below) => dir = below,
                Node::File(_) => return,
            }
        }
    }

    /// At most so many of the files that are unsure, with what they looked like and all their flags.
    pub(super) fn unsure(&mut self, most: usize) -> Vec<(BString, FileStat, u8)> {
        fn go<'t>(dir: &'t Dir, above: &mut Vec<&'t [u8]>, found: &mut Vec<BString>, most: usize) {
            for (name, node) in &dir.nodes {
                above.push(name);
                match node {
                    Node::File(file) if file.has(TrackedFile::UNSURE) && found.len() < most => {
                        found.push(above.join(&b'/').into());
                    }
                    Node::File(_) => {}
                    Node::Dir(below) => go(below, above, found, most),
                }
                above.pop();
            }
        }
        let mut paths = match self.unsure.0.take() {
            Some(paths) => paths,
            None => {
                let mut paths = Vec::new();
                go(&self.root, &mut Vec::new(), &mut paths, NAMED);
                paths
            }
        };
        paths.sort_unstable();
        paths.dedup();
        paths.retain(|path| {
            self.get(path.as_bstr())
                .is_some_and(|file| file.has(TrackedFile::UNSURE))
        });
        let file = |path: &BString| {
            self.get(path.as_bstr())
                .map(|file| (path.clone(), file.stat, file.flags))
        };
        let found = paths.iter().take(most).filter_map(file).collect();
        self.unsure = Unsure((paths.len() < NAMED).then_some(paths));
        found
    }

    /// Every file in the order of the index.
    pub(crate) fn for_each(&self, visit: &mut dyn FnMut(&BStr, &TrackedFile)) {
        fn go(dir: &Dir, path: &mut BString, visit: &mut dyn FnMut(&BStr, &TrackedFile)) {
            let len = path.len();
            for at in dir.in_tree_order() {
                let (name, node) = dir.node(at);
                path.extend_from_slice(name);
                match node {
                    Node::File(file) => visit(path.as_bstr(), file),
                    Node::Dir(below) => {
                        path.push(b'/');
                        go(below, path, visit);
                    }
                }
                path.truncate(len);
            }
        }
        go(&self.root, &mut BString::default(), visit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(n: u8) -> TrackedFile {
        TrackedFile {
            id: ObjectId::from_bytes_or_panic(&[n; 20]),
            stat: FileStat::default(),
            kind: EntryKind::Blob,
            flags: 0,
        }
    }

    fn paths(tracked: &Tracked) -> Vec<BString> {
        let mut paths = Vec::new();
        tracked.for_each(&mut |path, _| paths.push(path.to_owned()));
        paths
    }

    proptest! {
        /// Whatever is set and removed: it is what a plain map of paths would hold, in the order of the index.
        #[test]
        fn what_is_tracked_is_what_was_set(steps in prop::collection::vec(("[a-c.-]{1,2}(/[a-c.-]{1,2}){0,2}", any::<bool>()), 0..40)) {
            let mut tracked = Tracked::default();
            let mut model = std::collections::BTreeMap::new();
            for (n, (path, set)) in steps.iter().enumerate() {
                let path = BString::from(path.as_str());
                let below = |other: &BString, above: &BString| other.starts_with(above) && other.get(above.len()) == Some(&b'/');
                if *set {
                    model.retain(|other, _| !below(other, &path) && !below(&path, other));
                    model.insert(path.clone(), n as u8);
                    tracked.set(path.as_bstr(), file(n as u8));
                } else {
                    let before = model.len();
                    model.retain(|other, _| *other != path && !below(other, &path));
                    prop_assert_eq!(tracked.remove(path.as_bstr()), before != model.len());
                }
                prop_assert_eq!(tracked.len(), model.len());
                prop_assert_eq!(tracked.root().files(), model.len());
            }
            prop_assert_eq!(paths(&tracked), model.keys().cloned().collect::<Vec<_>>());
            for (path, n) in &model {
                prop_assert_eq!(tracked.get(path.as_bstr()), Some(&file(*n)));
            }
        }
    }

    #[test]
    fn a_change_is_known_all_the_way_up_and_nowhere_else() {
        let mut tracked = Tracked::default();
        for path in ["a/b/c", "a/d/e", "f/g"] {
            tracked.set(path.into(), file(1));
        }
        fn settle(dir: &mut Dir) {
            dir.tree = Some(ObjectId::from_bytes_or_panic(&[9; 20]));
            dir.dirs_mut().for_each(|(_, below)| settle(below));
        }
        let known = |tracked: &Tracked, path: &str| tracked.dir(path.into()).expect("a directory").tree.is_some();
        settle(&mut tracked.root);
        tracked.set("a/b/c".into(), file(1));
        assert!(known(&tracked, ""), "the same again is no change");
        tracked.set("a/b/c".into(), file(2));
        assert_eq!(
            ["", "a", "a/b", "a/d", "f"].map(|dir| known(&tracked, dir)),
            [false, false, false, true, true]
        );
        settle(&mut tracked.root);
        tracked.remove("a/d/e".into());
        assert_eq!(
            ["", "a", "a/b", "f"].map(|dir| known(&tracked, dir)),
            [false, false, true, true]
        );
        settle(&mut tracked.root);
        tracked.restat("f/g".into(), FileStat::default(), TrackedFile::RACY);
        assert!(known(&tracked, ""));
    }
}
