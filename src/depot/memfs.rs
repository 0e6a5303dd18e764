//! Letta's memory file system as a depot: `{base}/{organization}/{agent}/repo.git`, as Letta's backend reads it from the disk and as the sidecar wrote it that it is
//! usually served by. Names keep that order, `organization/agent/repo`, so that rules, listings and commands need to know nothing of it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use super::{
    Depot, DepotError,
    change::HIDDEN_PREFIX,
    layout::{self, Located},
};
use crate::{
    base::RepoName,
    repo::{OpenOptions as RepositoryOptions, Repository},
};

/// The name that every agent's repository has in its directory, without `.git`.
const REPO: &str = "repo";
/// Bytes of an id: an agent's is 42 long.
const MAX_ID: usize = 128;
/// Organizations that are looked through for an agent. With more of them nobody should ask across them.
const MAX_ORGANIZATIONS: usize = 10_000;
/// Agents whose organization is remembered.
const MAX_REMEMBERED: usize = 4_096;

/// How repositories lie in a depot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Each where its name says.
    #[default]
    Names,
    /// Letta's: only names `organization/agent/repo` can be made, and what is there is made fit to be pushed to.
    LettaMemfs {
        /// Whether an agent that is not in the organization asked for is looked for in all others. Whoever may ask for one may then ask for all.
        org_fallback: bool,
    },
}

/// The name of an agent's repository in Letta's layout. `None` if one of both is no id: letters, digits, `.`, `_` and `-`, beginning with a letter, a digit or `_`,
/// not ending in `.`, `.git` or `.lock`, of 128 bytes at most.
pub fn letta_memfs_name(organization: &str, agent: &str) -> Option<RepoName> {
    let name = RepoName::parse(&format!("{organization}/{agent}/{REPO}")).ok()?;
    is_ours(&name).then_some(name)
}

/// Whether a name is one that this layout makes.
pub(super) fn is_ours(name: &RepoName) -> bool {
    let segments: Vec<&str> = name.stem().split('/').collect();
    let [organization, agent, REPO] = segments.as_slice() else {
        return false;
    };
    let short = organization.len() <= MAX_ID && agent.len() <= MAX_ID;
    short && name.check_creatable().is_ok()
}

/// Refuses a name whose organization or agent is there already in other letters: on many file systems, and for many people, those are the same.
pub(super) fn check_case(root: &Path, name: &RepoName) -> Result<(), DepotError> {
    let mut dir = root.to_owned();
    for segment in name.stem().split('/').take(2) {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if layout::is_absence(&error) => return Ok(()),
            Err(source) => return Err(DepotError::io("read", dir, source)),
        };
        for entry in entries {
            let entry = entry.map_err(|source| DepotError::io("read", dir.clone(), source))?;
            let found = entry.file_name();
            if found != segment && found.eq_ignore_ascii_case(segment) {
                let name = name.stem().to_owned();
                return Err(DepotError::InTheWay { name });
            }
        }
        dir.push(segment);
    }
    Ok(())
}

/// What every repository of this layout has in its configuration. Those that Letta's backend makes say that they have a working tree, which they have not.
///
/// `receive.denyCurrentBranch` needs no word beside that: nothing is checked out, and where a workspace is, it shall not be passed over.
const WANTED: [(&str, &str, &str); 2] = [("core", "bare", "true"), ("http", "receivepack", "true")];

/// Opens a repository of this layout, after mending its configuration if need be: once for as long as it stays open.
pub(super) fn open(dir: &Path, options: &RepositoryOptions) -> Result<Repository, crate::repo::OpenError> {
    let repository = Repository::open(dir, options)?;
    let settings = repository.settings();
    let is_right = settings.core.bare == Some(true) && settings.http.receive_pack.is_some();
    // A repository that is closed to pushes by its owner stays so.
    if is_right {
        return Ok(repository);
    }
    let missing = WANTED.iter().filter(|(section, _, _)| match *section {
        "core" => settings.core.bare != Some(true),
        _ => settings.http.receive_pack.is_none(),
    });
    let mut lines = String::new();
    for (section, key, value) in missing {
        lines.push_str(&format!("[{section}]\n\t{key} = {value}\n"));
    }
    match append_config(dir, &lines) {
        Ok(()) => {
            tracing::info!(path = %dir.display(), "mended the configuration of a repository made elsewhere");
            Repository::open(dir, options)
        }
        Err(error) => {
            tracing::warn!(path = %dir.display(), %error, "cannot mend the configuration of a repository made elsewhere");
            Ok(repository)
        }
    }
}

/// Adds lines to a configuration as `git config` would: under its lock, whole or not at all.
pub(super) fn append_config(git_dir: &Path, lines: &str) -> io::Result<()> {
    let (path, lock) = (git_dir.join("config"), git_dir.join("config.lock"));
    let mut text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mode = fs::metadata(&path).map_or(0o644, |meta| meta.permissions().mode() & 0o777);
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(lines.as_bytes());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&lock)?;
    let written = file.write_all(&text).and_then(|()| file.sync_all());
    let written = written.and_then(|()| fs::rename(&lock, &path));
    if written.is_err() {
        let _ = fs::remove_file(&lock);
    }
    written
}

impl Depot {
    /// Where the only other organization has this agent that has one of that id.
    ///
    /// # Errors
    /// [`DepotError::Ambiguous`] if several have.
    pub(super) fn locate_elsewhere(&self, name: &RepoName) -> Result<Located, DepotError> {
        let not_found = || DepotError::NotFound { name: name.clone() };
        let mut segments = name.stem().split('/');
        let (Some(_), Some(agent), true) = (segments.next(), segments.next(), is_ours(name)) else {
            return Err(not_found());
        };
        let in_organization = |organization: &str| {
            let path = self.root.join(organization).join(agent).join(format!("{REPO}.git"));
            layout::examine(&path, layout::Shape::Bare)
        };
        let remembered = self.elsewhere().get(agent).cloned();
        if let Some(organization) = remembered {
            match in_organization(&organization)? {
                Some(located) => return Ok(located),
                None => drop(self.elsewhere().remove(agent)),
            }
        }
        let entries = fs::read_dir(&self.root).map_err(|source| DepotError::io("read", self.root.clone(), source))?;
        let mut found: Option<(String, Located)> = None;
        for (n, entry) in entries.enumerate() {
            let entry = entry.map_err(|source| DepotError::io("read", self.root.clone(), source))?;
            let Ok(organization) = entry.file_name().into_string() else {
                continue;
            };
            if n >= MAX_ORGANIZATIONS {
                tracing::warn!("there are too many organizations to look for an agent in all of them");
                return Err(not_found());
            }
            if organization.starts_with(HIDDEN_PREFIX) {
                continue;
            }
            match in_organization(&organization)? {
                Some(_) if found.is_some() => return Err(DepotError::Ambiguous { name: name.clone() }),
                Some(located) => found = Some((organization, located)),
                None => {}
            }
        }
        let (organization, located) = found.ok_or_else(not_found)?;
        tracing::info!(path = %located.git_dir.display(), "found an agent's repository in another organization");
        let mut remembered = self.elsewhere();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(agent.to_owned(), organization);
        Ok(located)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_in_their_directory() {
        let name = |organization, agent| letta_memfs_name(organization, agent).map(|name| name.as_str().to_owned());
        let agent = "agent-0b2d1f6e-7a4c-4b8e-9a1e-0123456789ab";
        assert_eq!(name("default", agent), Some(format!("default/{agent}/repo")));
        assert!(name("org-1", "_x.y").is_some());
        let long = "a".repeat(MAX_ID + 1);
        for bad in [
            "", ".", "..", "-x", "a/b", "a\0", "a b", ".git", "a.git", "a.lock", "ä", &long, "a\\b", "%2e",
        ] {
            assert_eq!(name("default", bad), None, "{bad:?} is no agent");
            assert_eq!(name(bad, agent), None, "{bad:?} is no organization");
        }
    }

    #[test]
    fn lines_are_added_to_a_configuration_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        fs::write(&config, "[core]\n\tbare = false # of Letta's").unwrap();
        append_config(dir.path(), "[core]\n\tbare = true\n").unwrap();
        let text = fs::read_to_string(&config).unwrap();
        assert_eq!(text, "[core]\n\tbare = false # of Letta's\n[core]\n\tbare = true\n");
        fs::write(dir.path().join("config.lock"), "").unwrap();
        append_config(dir.path(), "[x]\n").expect_err("somebody else holds the lock");
        assert_eq!(fs::read_to_string(&config).unwrap(), text);
    }
}
