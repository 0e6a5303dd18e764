//! What agents can reach: of the files the workspace, its repository's history, and programs; nothing else of Gitstead's. Of networks what the ports that are listed let through.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{AgentSpec, SessionError};
use crate::{
    agent::{Cgroups, Sandbox},
    dialect::Kind,
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
/// Paths that may be added, and ports that may be listed.
const PATHS: usize = 256;
const PORTS: usize = 256;

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
    /// Whether it may make namespaces of its own; not if nobody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_namespaces: Option<bool>,
    /// Whether it has the networks of its host; if not, it has one of its own with nothing in it but loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<bool>,
    /// The TCP ports, of whichever host, to which it can connect; all where there is no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<Vec<u16>>,
    /// The TCP ports on which it can listen, 0 for any that the system picks; all where there is no list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Vec<u16>>,
}

impl SandboxSpec {
    /// Checks what can be checked before.
    pub(super) fn check(&self) -> Result<(), SessionError> {
        let why = match self.read.iter().chain(&self.write).find(|path| !path.is_absolute()) {
            Some(path) => format!("'{}' is not an absolute path", path.display()),
            None if self.read.len() + self.write.len() > PATHS => format!("there are more than {PATHS} paths"),
            None if [&self.connect, &self.bind]
                .into_iter()
                .flatten()
                .any(|ports| ports.len() > PORTS) =>
            {
                format!("there are more than {PORTS} ports")
            }
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
        if spec.hooks && self.sandbox.mode != SandboxMode::Off {
            return Err(SessionError::Invalid {
                why: "this server puts its agents into a sandbox, and hooks do not reach it from there".to_owned(),
            });
        }
        let SandboxSpec {
            read,
            write,
            user_namespaces,
            network,
            connect,
            bind,
            ..
        } = &spec.sandbox;
        let is_off = spec.sandbox.mode.max(self.sandbox.mode) == SandboxMode::Off;
        if is_off && (user_namespaces.is_some() || network.is_some() || connect.is_some() || bind.is_some()) {
            return Err(SessionError::Invalid {
                why: "networks and namespaces are bounded in a sandbox only, and this agent is in none".to_owned(),
            });
        }
        let has_network = [self.sandbox.network, *network].iter().all(|said| *said != Some(false));
        if !is_off && !has_network && spec.kind()? == Kind::OpencodeServer {
            return Err(SessionError::Invalid {
                why: "what listens in a network of its own is not on this machine's loopback".to_owned(),
            });
        }
        let may = self.sandbox.user_namespaces == Some(true);
        let adds = !read.is_empty() || !write.is_empty() || (*user_namespaces == Some(true) && !may);
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
        let (ours, theirs) = (&self.sandbox, &spec.sandbox);
        let user_namespaces = theirs.user_namespaces.or(ours.user_namespaces).unwrap_or(false);
        if user_namespaces && !rustix::process::geteuid().is_root() {
            // Who is who in a namespace is written there.
            write.extend(PROC.iter().map(PathBuf::from));
        }
        Some(Sandbox {
            required: mode == SandboxMode::Required,
            read,
            write,
            user_namespaces,
            no_network: [ours.network, theirs.network].contains(&Some(false)),
            connect: both(ours.connect.as_deref(), theirs.connect.as_deref()),
            bind: both(ours.bind.as_deref(), theirs.bind.as_deref()),
        })
    }
}

/// The ports that both lists have; no list has all.
fn both(one: Option<&[u16]>, other: Option<&[u16]>) -> Option<Vec<u16>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.iter().copied().filter(|port| other.contains(port)).collect()),
        (one, other) => one.or(other).map(<[u16]>::to_vec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Place;

    #[test]
    fn an_agent_is_given_no_more_than_the_house_gives_all() {
        assert_eq!(both(None, None), None);
        assert_eq!(both(Some(&[1, 2]), None), Some(vec![1, 2]));
        assert_eq!(both(None, Some(&[])), Some(Vec::new()));
        assert_eq!(both(Some(&[1, 2]), Some(&[3, 2])), Some(vec![2]));
        let mut spec = AgentSpec::new(&Place::parse("demo", "main").expect("names"), vec!["sh".to_owned()]);
        let mut fences = Fences::default();
        let refused = |fences: &Fences, spec: &AgentSpec| fences.check(spec).err().map(|error| error.to_string());
        assert_eq!(refused(&fences, &spec), None);
        spec.sandbox.connect = Some(vec![443]);
        assert!(refused(&fences, &spec).is_some_and(|why| why.contains("in none")));
        fences.sandbox.mode = SandboxMode::BestEffort;
        assert_eq!(refused(&fences, &spec), None, "it is stricter");
        spec.sandbox.network = Some(false);
        assert_eq!(refused(&fences, &spec), None, "so is this");
        spec.dialect = "opencode-server".to_owned();
        assert!(refused(&fences, &spec).is_some_and(|why| why.contains("loopback")));
        (spec.dialect, spec.sandbox.network) = ("plain".to_owned(), None);
        spec.sandbox.user_namespaces = Some(true);
        assert!(refused(&fences, &spec).is_some_and(|why| why.contains("configuration")));
        fences.sandbox.user_namespaces = Some(true);
        assert_eq!(refused(&fences, &spec), None);
    }
}
