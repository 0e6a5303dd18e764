//! An agent in a container that somebody else has started: `docker exec` in its place, or what understands the same words (`podman exec`).
//!
//! The process that is started is a client of the container's engine, and whatever the agent starts is none of ours: no signal of ours reaches it. So it is ended from
//! within, by a shell that is executed in the container as well and looks for whatever has the mark of the run in its environment, until it finds nothing any more.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{handle::RUN_MARK, launch::Launch};

/// A container, and how it is reached.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The client: a path, or a name that is looked for in the `PATH` of [`client_env`](Self::client_env).
    pub program: String,
    /// The container, as the client knows it.
    pub name: String,
    /// Who the agent is in it, if not who the container says.
    pub user: Option<String>,
    /// Where it works in it.
    pub dir: PathBuf,
    /// What the client needs of our environment. What the agent is given lies beside it: the client hands it on by name, so that no value is in its arguments.
    /// What the client goes by itself (see [`is_clients`](Self::is_clients)) is not replaced: only such a value is in an argument.
    pub client_env: Vec<(String, String)>,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("program", &self.program)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Which processes of a run are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// The agent's own: SIGTERM.
    First,
    /// All: SIGKILL, until there are none.
    All,
}

/// Ends processes by the mark in their environment. Exits with 0 when there is none left, or the first one was asked. Needs `sh`, `tr`, `grep`, `sed` and `/proc`.
///
/// The first one is the one whose parent has no such mark.
const ENDER: &str = r#"
mark=$1; whom=$2; left=0
marked() { tr '\0' '\n' < "/proc/$1/environ" 2>/dev/null | grep -qxF "$mark"; }
command -v grep > /dev/null && command -v tr > /dev/null && command -v sed > /dev/null && [ -r /proc/self/environ ] || exit 3
for pass in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    left=0
    for dir in /proc/[0-9]*; do
        pid=${dir#/proc/}
        [ "$pid" != $$ ] && marked "$pid" || continue
        if [ "$whom" = first ]; then
            parent=$(sed -n 's/^PPid:[^0-9]*//p' "$dir/status" 2>/dev/null)
            marked "${parent:-0}" || kill -TERM "$pid" 2>/dev/null
        else
            left=1
            kill -KILL "$pid" 2>/dev/null
        fi
    done
    [ $left = 0 ] && exit 0
    [ $pass -gt 3 ] && sleep 0.1 2>/dev/null
done
exit 4
"#;

impl Container {
    /// Whether a client of a container's engine goes by this variable itself: with a value that is meant for the container it would be another user's client.
    pub fn is_clients(name: &str) -> bool {
        let own = ["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK"];
        own.contains(&name) || name.starts_with("XDG_") || Self::is_engines(name)
    }

    /// Whether a variable says which engine is meant, and how it is reached.
    pub fn is_engines(name: &str) -> bool {
        ["DOCKER_", "CONTAINER_", "CONTAINERS_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    }

    fn words(&self, rest: &[&str]) -> Vec<String> {
        let mut words = vec![self.program.clone(), "exec".to_owned()];
        words.extend(rest.iter().map(|word| (*word).to_owned()));
        if let Some(user) = &self.user {
            words.extend(["-u".to_owned(), user.clone()]);
        }
        words
    }

    /// What is executed for an agent that is started so.
    pub(super) fn argv(&self, launch: &Launch) -> Vec<String> {
        let mut words = self.words(&["-i"]);
        words.extend(["-w".to_owned(), self.dir.to_string_lossy().into_owned()]);
        for given in &launch.env {
            let (key, value) = given;
            let by_name = !Self::is_clients(key) || self.client_env.contains(given);
            let told = if by_name { key.clone() } else { format!("{key}={value}") };
            words.extend(["-e".to_owned(), told]);
        }
        words.push(self.name.clone());
        words.extend(launch.argv.iter().cloned());
        words
    }

    /// What is executed to end it from within.
    pub(super) fn ender(&self, run: &str, whom: Whom) -> Vec<String> {
        let mut words = self.words(&[]);
        words.push(self.name.clone());
        let whom = match whom {
            Whom::First => "first",
            Whom::All => "all",
        };
        let mark = format!("{RUN_MARK}={run}");
        words.extend(["sh", "-c", ENDER, "sh", &mark, whom].map(str::to_owned));
        words
    }

    /// The environment of the client that starts the agent.
    pub(super) fn env<'a>(&'a self, given: &'a [(String, String)]) -> impl Iterator<Item = &'a (String, String)> {
        let own = self.client_env.iter();
        own.chain(given.iter().filter(|(key, _)| !Self::is_clients(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{Bounds, Ladder};

    #[test]
    fn values_are_in_no_argument() {
        let container = Container {
            program: "docker".to_owned(),
            name: "box".to_owned(),
            user: Some("dev".to_owned()),
            dir: "/work/sub".into(),
            client_env: vec![
                ("PATH".to_owned(), "/bin".to_owned()),
                ("HOME".to_owned(), "/root".to_owned()),
            ],
        };
        let launch = Launch {
            run: "it-1-1".to_owned(),
            argv: ["claude", "-p", "do it"].map(str::to_owned).to_vec(),
            env: vec![
                ("HOME".to_owned(), "/home/dev".to_owned()),
                ("KEY".to_owned(), "s3cret".to_owned()),
            ],
            cwd: "/".into(),
            record: "/x".into(),
            ladder: Ladder::default(),
            bounds: Bounds::default(),
            cgroup: None,
            sandbox: None,
            terminals: None,
            container: Some(container.clone()),
        };
        assert_eq!(
            container.argv(&launch).join(" "),
            "docker exec -i -u dev -w /work/sub -e HOME=/home/dev -e KEY box claude -p do it"
        );
        let env: Vec<_> = container.env(&launch.env).map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            env,
            ["PATH=/bin", "HOME=/root", "KEY=s3cret"],
            "the client keeps its own"
        );
        let ender = container.ender("it-1-1", Whom::All);
        assert_eq!(ender[..6].join(" "), "docker exec -u dev box sh");
        assert_eq!(ender[ender.len() - 2..], ["GITSTEAD_RUN=it-1-1", "all"]);
        assert!(!format!("{container:?}{launch:?}").contains("s3cret"));
    }
}
