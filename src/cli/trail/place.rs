//! Which workspace is meant, and what in it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bstr::{BString, ByteSlice as _};
use gix::hash::ObjectId;

use super::args::At;
use crate::{
    base::{RepoName, WorkspaceName},
    checkpoint::{resolve, shadow_of},
    depot::Depot,
    server::{self, Config, ConfigError},
    workspace::{Progress, Workspace, WorkspaceOptions},
};

/// How long a checkpoint may take before it says how far it is.
const SILENCE: Duration = Duration::from_millis(700);
const PACE: Duration = Duration::from_millis(100);

/// A workspace, and where in it paths begin that somebody types.
pub(super) struct Opened {
    pub workspace: Workspace,
    base: PathBuf,
}

impl At {
    /// Opens the workspace that is meant.
    pub(super) fn open(
        &self,
        lay_over: impl FnOnce(&mut WorkspaceOptions) -> anyhow::Result<()>,
    ) -> anyhow::Result<Opened> {
        self.open_from(Path::new("."), lay_over)
    }

    /// As [`open`](Self::open); the workspace is the one of this directory if nobody says otherwise.
    pub(super) fn open_from(
        &self,
        here: &Path,
        lay_over: impl FnOnce(&mut WorkspaceOptions) -> anyhow::Result<()>,
    ) -> anyhow::Result<Opened> {
        server::start_telemetry(self.place.log.as_deref().unwrap_or("warn"))?;
        let adjust = |base: WorkspaceOptions| -> anyhow::Result<WorkspaceOptions> {
            let mut options = WorkspaceOptions {
                any_root: self.any_root,
                progress: progress(),
                ..base
            };
            lay_over(&mut options)?;
            Ok(options)
        };
        // Without a home directory there is no configuration, and none is needed.
        let configured = || match Config::load(&self.place.overrides()) {
            Ok(config) => Ok(config.workspace_options()),
            Err(ConfigError::NoHome) => Ok(WorkspaceOptions::default()),
            Err(error) => Err(error),
        };
        let Some(wanted) = &self.workspace else {
            let workspace = Workspace::open_with(here, &adjust(configured()?)?)?;
            let base = here.canonicalize().context("find the current directory")?;
            return Ok(Opened { workspace, base });
        };
        let workspace = match names(wanted) {
            Some((repository, name)) if !wanted.is_dir() => self.open_named(&repository, &name, adjust)?,
            _ => Workspace::open_with(wanted, &adjust(configured()?)?)?,
        };
        let base = workspace.root().to_owned();
        Ok(Opened { workspace, base })
    }

    fn open_named(
        &self,
        repository: &RepoName,
        name: &WorkspaceName,
        adjust: impl FnOnce(WorkspaceOptions) -> anyhow::Result<WorkspaceOptions>,
    ) -> anyhow::Result<Workspace> {
        let config = Config::load(&self.place.overrides())?;
        if !config.repos.is_dir() {
            let wanted = format!("{repository}/{name}");
            bail!(
                "there is no directory {wanted}, and no repository '{repository}' either: there is no {}",
                config.repos.display()
            );
        }
        let depot = Depot::new(&config.repos, config.depot_options_for_operator())?;
        let options = adjust(config.workspace_options())?;
        Ok(depot.workspace_with(repository, name, &options)?)
    }
}

/// `REPO/WORKSPACE`, or `REPO` for its workspace `main`.
fn names(wanted: &Path) -> Option<(RepoName, WorkspaceName)> {
    if wanted.is_absolute() || wanted.starts_with(".") || wanted.starts_with("..") {
        return None;
    }
    let wanted = wanted.to_str()?;
    let (repository, name) = wanted.rsplit_once('/').unwrap_or((wanted, "main"));
    Some((RepoName::parse(repository).ok()?, WorkspaceName::parse(name).ok()?))
}

impl Opened {
    /// What a process that stays does by itself, for one that ends now: brings the checkpoint to the disk, and packs the small objects of many. The checkpoint is made
    /// whatever becomes of it; what goes wrong is returned.
    pub(super) fn settle(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Err(error) = self.workspace.flush() {
            warnings.push(format!(
                "the checkpoint may not survive a loss of power: {:#}",
                anyhow::Error::from(error)
            ));
        }
        if self.workspace.options().compact
            && let Err(error) = self.workspace.compact()
        {
            warnings.push(format!(
                "the objects of many checkpoints were not packed: {:#}",
                anyhow::Error::from(error)
            ));
        }
        warnings
    }

    /// The commit that a text names.
    pub(super) fn revision(&self, text: &str) -> anyhow::Result<ObjectId> {
        Ok(resolve(self.workspace.repository(), text)?)
    }

    /// The commit that HEAD is at; `None` on a branch without one.
    pub(super) fn head(&self) -> anyhow::Result<Option<ObjectId>> {
        Ok(self.workspace.repository().head(None)?.id())
    }

    /// The last checkpoint beside the branch.
    pub(super) fn shadow(&self) -> anyhow::Result<Option<ObjectId>> {
        Ok(shadow_of(&self.workspace)?)
    }

    /// A path that somebody typed, as the workspace knows it. It need not be there.
    pub(super) fn path(&self, typed: &Path) -> anyhow::Result<BString> {
        let whole = self.base.join(typed);
        let mut plain = PathBuf::new();
        for part in whole.components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => {
                    plain.pop();
                }
                part => plain.push(part),
            }
        }
        let root = self.workspace.root();
        let below = plain.strip_prefix(root).ok().map(Path::to_owned);
        // Or the same place by another way.
        let below = below.or_else(|| {
            let above = plain.parent()?.canonicalize().ok()?;
            let found = above.join(plain.file_name()?);
            found.strip_prefix(root).ok().map(Path::to_owned)
        });
        match below {
            Some(below) => Ok(<[u8]>::from_path(&below)
                .context("a path of this system is bytes")?
                .into()),
            None => bail!("{} is not in the workspace {}", typed.display(), root.display()),
        }
    }

    pub(super) fn paths(&self, typed: &[PathBuf]) -> anyhow::Result<Vec<BString>> {
        typed.iter().map(|path| self.path(path)).collect()
    }
}

/// Says on a terminal how far a checkpoint is that takes long.
fn progress() -> Option<Arc<dyn Fn(Progress) + Send + Sync>> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let next = Mutex::new(Instant::now() + SILENCE);
    Some(Arc::new(move |progress| {
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now < *next {
            return;
        }
        *next = now + PACE;
        let text = match progress {
            Progress::Looked { files } => format!("looking at the workspace: {files} files"),
            Progress::Read { files, of } => format!("reading what changed: {files} of {of} files"),
        };
        // The next line that is printed takes its place.
        let _ = write!(io::stderr().lock(), "\r\x1b[K{text}\r");
    }))
}

/// Wipes what [`progress`] has written.
pub(super) fn wipe() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr().lock(), "\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_named_by_its_repository_and_itself() {
        let name = |text: &str| names(Path::new(text)).map(|(repo, name)| format!("{repo} {name}"));
        assert_eq!(name("app/main").as_deref(), Some("app main"));
        assert_eq!(name("team/app/session-7").as_deref(), Some("team/app session-7"));
        assert_eq!(name("app").as_deref(), Some("app main"));
        for path in ["/app/main", "./app/main", "../app/main", "app/", "app/.x"] {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
