//! What agents can reach of the files: the workspace, its repository's history, and programs; nothing else of Gitstead's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AgentSpec, SessionError};
use crate::{
    agent::{Cgroups, Sandbox},
    workspace::Workspace,
};

/// What programs are made of on a usual system.
const SYSTEM: [&str; 9] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc",
    "/opt",
    "/nix/store",
];
/// What the system tells of itself. Landlock keeps a process from what `/proc` tells of those outside, but not one of the superuser's: who may profile everybody may read
/// everybody's environment (`may_access_mm` in the kernel's `kernel/fork.c`).
const PROC: [&str; 1] = ["/proc"];
const PROC_OF_ROOT: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/version",
    "/proc/filesystems",
    "/proc/sys",
];
/// Paths that may be added.
const PATHS: usize = 256;

/// Whether the files that an agent can reach are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxMode {
    /// It can reach what its user can.
    #[default]
    Off,
    /// Where the system can do that.
    BestEffort,
    /// Else it is not started.
    Required,
}

/// What an agent can reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    /// Whether it is bounded at all.
    #[serde(default)]
    pub mode: SandboxMode,
    /// What it can read and execute beside what programs are made of.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// What it can write beside its workspace.
    #[serde(default)]
    pub write: Vec<PathBuf>,
}

impl SandboxSpec {
    /// Checks what can be checked before.
    pub(super) fn check(&self) -> Result<(), SessionError> {
        let why = match self.read.iter().chain(&self.write).find(|path| !path.is_absolute()) {
            Some(path) => format!("'{}' is not an absolute path", path.display()),
            None if self.read.len() + self.write.len() > PATHS => format!("there are more than {PATHS} paths"),
            None => return Ok(()),
        };
        Err(SessionError::Invalid { why })
    }
}

/// What the house says of all its agents.
#[derive(Debug, Clone, Default)]
pub struct Fences {
    /// Where their cgroups are.
    pub cgroups: Option<Cgroups>,
    /// What they can reach. An agent may be given less, and not more.
    pub sandbox: SandboxSpec,
    /// The program that starts something in a container, `docker` if it is not said.
    pub container_program: Option<String>,
    /// Where Letta Code is, if not where one would look for it.
    pub letta_cli: Option<PathBuf>,
    /// What programs have said of their versions.
    pub versions: super::Versions,
}

impl Fences {
    /// Refuses what an agent may not be given.
    pub(super) fn check(&self, spec: &AgentSpec) -> Result<(), SessionError> {
        if spec.container.is_some() && self.sandbox.mode != SandboxMode::Off {
            return Err(SessionError::Invalid {
                why: "this server puts its agents into a sandbox, which does not reach into containers".to_owned(),
            });
        }
        let adds = !spec.sandbox.read.is_empty() || !spec.sandbox.write.is_empty();
        if adds && self.sandbox.mode != SandboxMode::Off {
            return Err(SessionError::Invalid {
                why: "what agents can reach is for the configuration of this server to say".to_owned(),
            });
        }
        Ok(())
    }

    /// Which files an agent can reach, if that is bounded. `search` is where it looks for programs, `temporary` a directory of its own, `house` one that is nothing for it.
    pub(super) fn sandbox(
        &self,
        spec: &AgentSpec,
        workspace: &Workspace,
        search: Option<&str>,
        temporary: &Path,
        house: &Path,
    ) -> Option<Sandbox> {
        let mode = spec.sandbox.mode.max(self.sandbox.mode);
        if mode == SandboxMode::Off {
            return None;
        }
        let (own, common) = (workspace.git_dir(), workspace.repository().common_dir());
        let mut write = vec![workspace.root().to_owned(), temporary.to_owned(), own.to_owned()];
        // Not the rest: what is in `config` and `hooks` is done by others, with more rights.
        write.extend(["objects", "refs", "logs"].map(|part| common.join(part)));
        let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        let proc = match rustix::process::geteuid().is_root() {
            true => &PROC_OF_ROOT[..],
            false => &PROC[..],
        };
        read.extend(proc.iter().map(PathBuf::from));
        read.push(common.to_owned());
        // Hooks of agents call this binary.
        read.extend(std::env::current_exe());
        let programs = search.unwrap_or_default().split(':').map(PathBuf::from);
        // Not one in which everything of the house is, too.
        let is_apart = |path: &PathBuf| path.is_absolute() && !house.starts_with(path) && path.parent().is_some();
        read.extend(programs.filter(is_apart));
        for told in [&self.sandbox, &spec.sandbox] {
            read.extend(told.read.iter().cloned());
            write.extend(told.write.iter().cloned());
        }
        Some(Sandbox {
            required: mode == SandboxMode::Required,
            read,
            write,
        })
    }
}
