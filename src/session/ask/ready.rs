//! Whether the agent of the configuration could answer now.

use std::path::Path;

use super::{AskDesk, history::projects_of};
use crate::{
    agent::find_program,
    dialect::Kind,
    session::{AgentSpec, Fences, State, env, letta},
    worker::Lane,
};

/// What it takes to answer a question, and what is being done. Names no place on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// How the agent speaks.
    pub dialect: &'static str,
    /// Its program, without directories.
    pub program: String,
    /// Whether that is there and can be executed.
    pub is_program_found: bool,
    /// Whether the directory in which it keeps its conversations is there; nothing where it is not known which that is. It makes it with the first one.
    pub has_sessions_dir: Option<bool>,
    /// Questions that an agent has.
    pub running: usize,
    /// Questions that wait for an agent that is being started.
    pub waiting: usize,
    /// Questions that there may be at a time.
    pub most: usize,
    /// Sessions that are not closed.
    pub sessions: usize,
    /// Agents of sessions that run.
    pub agents: usize,
}

impl Readiness {
    /// Whether another question would be taken up now.
    pub fn is_ready(&self) -> bool {
        self.is_program_found && self.running + self.waiting < self.most
    }
}

impl AskDesk {
    /// Whether the agent of the configuration could answer now; nothing where none is configured, or nobody has the time to look.
    pub async fn readiness(&self) -> Option<Readiness> {
        let inner = &self.inner;
        let spec = inner.rules.spec.clone()?;
        let (program, dialect) = (spec.program(), spec.kind().ok()?.as_str());
        let fences = inner.agents.context().fences.clone();
        let look = move || (is_found(&spec, &fences), has_sessions_dir(&spec));
        let looked = inner.workers.call(Lane::Short, None, look).await;
        let (is_program_found, has_sessions_dir) = looked.ok()?;
        let (sessions, (running, waiting)) = {
            let book = inner.book();
            (book.sessions.len(), book.usage.now())
        };
        let runs =
            |state: State| state.is_up() || matches!(state, State::Starting | State::Stopping | State::Restarting);
        let all = inner.agents.list();
        let agents = all
            .iter()
            .filter(|entry| entry.record().desk.is_some() && runs(entry.state()));
        Some(Readiness {
            dialect,
            program,
            is_program_found,
            has_sessions_dir,
            running,
            waiting,
            most: inner.rules.total,
            sessions,
            agents: agents.count(),
        })
    }
}

/// Whether its program is there. Blocks.
fn is_found(spec: &AgentSpec, fences: &Fences) -> bool {
    let own = |name: &str| std::env::var_os(name);
    let path = env::value(spec, "PATH", own).unwrap_or_else(|| env::PATH.into());
    // A container has its own.
    if spec.container.is_some() {
        return true;
    }
    match letta::place(spec, fences.letta_cli.as_deref(), own) {
        Ok(Some(command)) => is_there(&command, &path),
        Ok(None) => spec.command(None).is_ok_and(|argv| is_there(&argv, &path)),
        Err(_) => false,
    }
}

fn is_there(argv: &[String], path: &std::ffi::OsStr) -> bool {
    let name = argv.first().map_or("", String::as_str);
    find_program(name, path.to_str(), Path::new("/")).is_ok()
}

/// Whether the directory is there in which it keeps its conversations. Blocks.
fn has_sessions_dir(spec: &AgentSpec) -> Option<bool> {
    let is_known = spec.kind().is_ok_and(|kind| kind == Kind::Claude) && spec.container.is_none();
    let projects = projects_of(spec).filter(|_| is_known)?;
    Some(projects.is_dir())
}
