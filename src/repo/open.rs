use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bstr::ByteSlice;
use gix::hash::{Kind as HashKind, ObjectId};

use super::{
    config::{BadValue, Config, ConfigError},
    contents::ContentCache,
    encoded::EncodedCache,
    graph::GraphCache,
    ingest::Quarantine,
    loose::{HeldObjects, is_absent},
    odb::{Caches, Odb, OdbError},
    pack_set::{Stamp, Store, StoreOptions},
    refs::{RefStore, RefStoreOptions, RefsError},
    settings::Settings,
    shallow,
};
use crate::base::{Fault, Limits};

/// Why a directory is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no repository there.
    #[error("not a git repository: {what}")]
    NotARepository {
        /// The directory.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// It is a repository, but one that we could serve only in part, so we do not.
    #[error("{why}")]
    Unsupported {
        /// What it needs that we do not have.
        why: String,
    },
    /// Its `config` cannot be read as one.
    #[error("bad config file {file}: {why}", file = file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// Where and what.
        why: String,
    },
    /// A value in its `config` has no meaning.
    #[error(transparent)]
    Value(#[from] BadValue),
    /// A file operation failed.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            OpenError::NotARepository { .. } => Fault::NotFound,
            OpenError::Config { .. } | OpenError::Value(_) => Fault::Corrupt,
            OpenError::Unsupported { .. } | OpenError::Io { .. } => Fault::Ours,
        }
    }

    /// What a client may be told: no path of ours.
    pub fn public_text(&self) -> String {
        match self {
            OpenError::NotARepository { what, .. } => format!("not a git repository: {what}"),
            OpenError::Config { why, .. } => format!("bad config: {why}"),
            OpenError::Io { .. } => "repository cannot be opened".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Why a repository's own files, beside objects and refs, could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file operation failed.
    #[error("{doing} {path}", path = path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

impl StoreError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            StoreError::Io { .. } => Fault::Ours,
            StoreError::Damaged { .. } => Fault::Corrupt,
        }
    }
}

/// How repositories are opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Configuration that lies under the repository's own: `("uploadpack.allowfilter", "true")`.
    pub defaults: Vec<(String, String)>,
    /// The bounds of the house.
    pub limits: Limits,
    /// Whether updates of refs return before they are on the disk. They are whole all the same, and survive a killed process; somebody else flushes them.
    pub lazy_refs: bool,
    /// Where contents of objects are kept for the next request. By default one cache for the process.
    pub contents: Arc<ContentCache>,
    /// Where what was compressed for answers is kept for the next one. By default one cache for the process.
    pub encoded: Arc<EncodedCache>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            defaults: Vec::new(),
            limits: Limits::default(),
            lazy_refs: false,
            contents: ContentCache::of_process(),
            encoded: EncodedCache::of_process(),
        }
    }
}

impl OpenOptions {
    /// Whether every repository would refuse these defaults.
    ///
    /// # Errors
    /// The first value that cannot be one of its key.
    pub fn check(&self) -> Result<(), BadValue> {
        Settings::new(self.as_config(), Path::new("")).map(|_| ())
    }

    fn as_config(&self) -> Config {
        let mut config = Config::default();
        for (key, value) in &self.defaults {
            config.push(key, Some(value));
        }
        config
    }
}

/// One repository on disk, open for any number of requests at a time.
///
/// Reads only what is its own: no file of the user or the system, no environment, no includes. Refuses what it could serve only in part.
pub struct Repository {
    git_dir: PathBuf,
    common_dir: PathBuf,
    objects_dir: PathBuf,
    hash: HashKind,
    bare: bool,
    settings: Settings,
    limits: Limits,
    caches: Caches,
    store: Arc<Store>,
    refs: RefStore,
    /// What opening depended on.
    watched: Vec<(PathBuf, Watch)>,
}

enum Watch {
    /// The directory must be the same one.
    Place(Option<Stamp>),
    /// The file must be unchanged.
    Content(Option<Stamp>),
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository")
            .field("git_dir", &self.git_dir)
            .finish_non_exhaustive()
    }
}

/// No pointer file (`.git`, `commondir`) or HEAD is longer.
const MAX_POINTER_BYTES: u64 = 8 << 10;

/// The content of a small file without its line end; `None` when there is none.
fn read_small(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let io = |source| OpenError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_POINTER_BYTES).read_to_end(&mut bytes).map_err(io)?,
        Err(err) if is_absent(&err) || err.kind() == io::ErrorKind::IsADirectory => return Ok(None),
        Err(err) => return Err(io(err)),
    };
    bytes.truncate(bytes.trim_end().len());
    Ok(Some(bytes))
}

fn join(base: &Path, bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    base.join(std::ffi::OsStr::from_bytes(bytes))
}

/// Follows a `.git` file, as submodules and linked worktrees have it.
fn resolve_git_file(path: &Path) -> Result<PathBuf, OpenError> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(err) if is_absent(&err) => return Err(not_a_repository(path, "it does not exist")),
        Err(source) => {
            return Err(OpenError::Io {
                doing: "look at",
                path: path.to_owned(),
                source,
            });
        }
    };
    if meta.is_dir() {
        return Ok(path.to_owned());
    }
    let target = if meta.is_file() { read_small(path)? } else { None };
    match target.as_deref().and_then(|text| text.strip_prefix(b"gitdir: ")) {
        Some(target) if !target.is_empty() => {
            let dir = join(path.parent().unwrap_or(Path::new(".")), target);
            if dir.is_dir() {
                Ok(dir)
            } else {
                Err(not_a_repository(path, "its .git file points nowhere"))
            }
        }
        _ => Err(not_a_repository(path, "its .git file is not one")),
    }
}

fn not_a_repository(path: &Path, what: &'static str) -> OpenError {
    OpenError::NotARepository {
        path: path.to_owned(),
        what,
    }
}

/// git's own test for HEAD: a symbolic link into refs, `ref: refs/…`, or an object id.
fn is_head(path: &Path) -> Result<bool, OpenError> {
    if let Ok(target) = fs::read_link(path) {
        return Ok(target.starts_with("refs"));
    }
    let Some(text) = read_small(path)? else {
        return Ok(false);
    };
    if let Some(target) = text.strip_prefix(b"ref:") {
        return Ok(target.trim_start().starts_with(b"refs/"));
    }
    Ok([HashKind::Sha1, HashKind::Sha256].iter().any(|kind| {
        text.get(..kind.len_in_hex())
            .is_some_and(|hex| ObjectId::from_hex(hex).is_ok())
    }))
}

/// What the repository format asks for (gitrepository-layout(5), git-config(1) `extensions.*`).
struct Format {
    hash: HashKind,
    worktree_config: bool,
}

fn check_format(config: &Config) -> Result<Format, OpenError> {
    let unsupported = |why: String| Err(OpenError::Unsupported { why });
    let version: i64 = config.number("core.repositoryformatversion")?.unwrap_or(0);
    if !(0..=1).contains(&version) {
        return unsupported(format!("Expected git repo version <= 1, found {version}"));
    }
    let mut format = Format {
        hash: HashKind::Sha1,
        worktree_config: false,
    };
    let (mut only_v1, mut unknown) = (Vec::new(), Vec::new());
    for (key, value) in config.below("extensions.") {
        let name = &key["extensions.".len()..];
        let text = || value.map(|v| v.to_str_lossy().into_owned()).unwrap_or_default();
        match name.as_bytes() {
            // git honours these whatever the version.
            b"noop" | b"preciousobjects" => {}
            // Objects that another repository promised may be missing here; we never fetch them.
            b"partialclone" => {}
            b"worktreeconfig" => format.worktree_config = super::config::parse_bool(value).unwrap_or(true),
            b"noop-v1" | b"relativeworktrees" | b"submodulepathconfig" => only_v1.push(name.to_str_lossy()),
            b"objectformat" => {
                only_v1.push(name.to_str_lossy());
                format.hash = match text().as_str() {
                    "sha1" => HashKind::Sha1,
                    "sha256" => HashKind::Sha256,
                    other => return unsupported(format!("unsupported object format '{other}'")),
                };
            }
            b"refstorage" => {
                only_v1.push(name.to_str_lossy());
                match text().as_str() {
                    "files" => {}
                    other => {
                        return unsupported(format!(
                            "refs are stored as '{other}' (extensions.refStorage), which is not supported; only 'files' is"
                        ));
                    }
                }
            }
            _ => unknown.push(name.to_str_lossy()),
        }
    }
    if version == 0 && !only_v1.is_empty() {
        return unsupported(format!(
            "repo version is 0, but v1-only extension{} found: {}",
            if only_v1.len() == 1 { "" } else { "s" },
            only_v1.join(", ")
        ));
    }
    // Version 0 predates extensions: what git does not know there, it ignores.
    if version == 1 && !unknown.is_empty() {
        return unsupported(format!(
            "unknown repository extension{} found: {}",
            if unknown.len() == 1 { "" } else { "s" },
            unknown.join(", ")
        ));
    }
    Ok(format)
}

impl Repository {
    /// Opens the repository at `git_dir`: a bare repository, a `.git` directory, or a `.git` file that points to one.
    ///
    /// # Errors
    /// `NotARepository`; `Unsupported` for a repository that we could serve only in part (reftable, an unknown extension or object format, a newer format
    /// version); `Config` and `Value` for a `config` that git would not accept.
    pub fn open(git_dir: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let git_dir_given = git_dir;
        let git_dir = resolve_git_file(git_dir_given)?;
        let common_dir = match read_small(&git_dir.join("commondir"))? {
            Some(target) if !target.is_empty() => join(&git_dir, &target),
            _ => git_dir.clone(),
        };
        if !is_head(&git_dir.join("HEAD"))? {
            return Err(not_a_repository(&git_dir, "it has no valid HEAD"));
        }
        let objects_dir = common_dir.join("objects");
        if !objects_dir.is_dir() {
            return Err(not_a_repository(&git_dir, "it has no objects directory"));
        }
        if !common_dir.join("refs").is_dir() {
            return Err(not_a_repository(&git_dir, "it has no refs directory"));
        }

        let config_file = common_dir.join("config");
        let worktree_file = git_dir.join("config.worktree");
        // Before the content is read: a change in between is seen as one.
        let watched = Self::watch(git_dir_given, &git_dir, &objects_dir, &config_file, &worktree_file);
        let mut config = options.as_config();
        // The format is the repository's own, whatever lies underneath.
        let mut own = Config::default();
        let read = |config: &mut Config, file: &Path| {
            config.read_file(file).map_err(|err| match err {
                ConfigError::Io(source) => OpenError::Io {
                    doing: "read",
                    path: file.to_owned(),
                    source,
                },
                ConfigError::Syntax(why) => OpenError::Config {
                    file: file.to_owned(),
                    why,
                },
            })
        };
        read(&mut own, &config_file)?;
        let format = check_format(&own)?;
        if format.worktree_config {
            read(&mut own, &worktree_file)?;
        }
        config.append(own);
        let settings = Settings::new(config, &common_dir)?;

        let is_linked = common_dir != git_dir;
        let looks_bare = git_dir.file_name().is_none_or(|name| name != ".git");
        let bare = !is_linked && settings.core.bare.unwrap_or(looks_bare);
        let store = Store::new(
            objects_dir.clone(),
            StoreOptions {
                hash: format.hash,
                midx: settings.core.multi_pack_index,
                rev: settings.pack.read_reverse_index,
                bitmaps: settings.pack.use_bitmaps,
            },
        );
        let graphs = GraphCache::new(&common_dir, settings.core.commit_graph);
        let refs = RefStore::new(
            &git_dir,
            &common_dir,
            format.hash,
            RefStoreOptions {
                lazy: options.lazy_refs,
                ..RefStoreOptions::from_settings(&settings, bare)
            },
        );
        Ok(Repository {
            git_dir,
            objects_dir,
            hash: format.hash,
            bare,
            settings,
            limits: options.limits.clone(),
            caches: Caches {
                contents: options.contents.clone(),
                encoded: options.encoded.clone(),
                graphs: Arc::new(graphs),
            },
            store: Arc::new(store),
            refs,
            watched,
            common_dir,
        })
    }

    fn watch(given: &Path, git_dir: &Path, objects: &Path, config: &Path, worktree: &Path) -> Vec<(PathBuf, Watch)> {
        let stamp = |path: &Path| Stamp::of(path).ok().flatten();
        let place = |path: &Path| (path.to_owned(), Watch::Place(stamp(path)));
        let content = |path: &Path| (path.to_owned(), Watch::Content(stamp(path)));
        let mut watched = vec![place(git_dir), place(objects), content(config)];
        if given != git_dir {
            watched.push(content(given));
        }
        // Both are rare; a file that is not there costs a stat like any other.
        if worktree.exists() {
            watched.push(content(worktree));
        }
        watched
    }

    /// Whether the directory is gone or its configuration has changed since it was opened, by a few stats. Packs and refs that change do not make a repository
    /// stale.
    pub fn is_stale(&self) -> bool {
        self.watched.iter().any(|(path, watch)| {
            let now = Stamp::of(path).ok().flatten();
            match watch {
                Watch::Content(then) => now != *then,
                Watch::Place(then) => match (now, then) {
                    (Some(now), Some(then)) => !now.same_place(then),
                    _ => true,
                },
            }
        })
    }

    /// The directory with HEAD: of a linked worktree its own.
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// The directory with objects, refs and config: of a linked worktree that of the repository it belongs to, else the git directory.
    pub fn common_dir(&self) -> &Path {
        &self.common_dir
    }

    /// `<common dir>/objects`
    pub fn objects_dir(&self) -> &Path {
        &self.objects_dir
    }

    /// The hash that ids here are made with.
    pub fn hash_kind(&self) -> HashKind {
        self.hash
    }

    /// Whether it has no working tree: `core.bare`, or by its name when that is not set.
    pub fn is_bare(&self) -> bool {
        self.bare
    }

    /// What its configuration says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The bounds it was opened with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Its refs, for what the methods here do not offer.
    pub fn ref_store(&self) -> &RefStore {
        &self.refs
    }

    /// The objects as of now, for one request. Costs a few stats when nothing has changed on disk.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn odb(&self) -> Result<Odb, OdbError> {
        Ok(self.odb_of(self.store.current()?, Arc::default()))
    }

    /// As [`odb`](Self::odb), with the packs and loose objects below `objects_dir` behind all others: what a push brought and is not accepted yet.
    pub fn odb_with_quarantine(&self, objects_dir: &Path) -> Result<Odb, OdbError> {
        let set = Arc::new(self.store.with_quarantine(objects_dir)?);
        Ok(self.odb_of(set, Arc::default()))
    }

    /// As [`odb`](Self::odb), with what is in a quarantine behind everything else.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn odb_behind(&self, quarantine: &Quarantine) -> Result<Odb, OdbError> {
        let set = match quarantine.objects_dir() {
            Some(dir) => Arc::new(self.store.with_quarantine(dir)?),
            None => self.store.current()?,
        };
        Ok(self.odb_of(set, quarantine.held()))
    }

    fn odb_of(&self, set: Arc<super::PackSet>, held: Arc<HeldObjects>) -> Odb {
        Odb::new(
            self.store.clone(),
            set,
            self.hash,
            self.limits.clone(),
            self.caches.clone(),
            held,
        )
    }

    /// The commits whose parents this repository itself does not have (its `shallow` file), sorted. Empty for a whole repository.
    pub fn shallow(&self) -> Result<Vec<ObjectId>, StoreError> {
        shallow::read(&self.common_dir.join("shallow"), self.hash)
    }

    /// Adds commits to the `shallow` file, durably: a push of shallow history was accepted (`receive.shallowUpdate`). `pick` says under the lock of the
    /// file, and knowing what is in it, which ones.
    ///
    /// # Errors
    /// Those of `pick`; [`RefsError::Locked`] when another process holds the lock for too long; those of the file system.
    pub fn add_shallow<E: From<StoreError> + From<RefsError>>(
        &self,
        pick: impl FnOnce(&[ObjectId]) -> Result<Vec<ObjectId>, E>,
    ) -> Result<(), E> {
        let deadline = Instant::now() + shallow::WAIT;
        shallow::add(&self.refs, &self.common_dir.join("shallow"), self.hash, deadline, pick)
    }

    /// The objects directories of its alternates, nearest first.
    pub fn alternate_object_dirs(&self) -> Result<Vec<PathBuf>, OdbError> {
        Ok(self.store.current()?.object_dirs()[1..].to_vec())
    }
}
