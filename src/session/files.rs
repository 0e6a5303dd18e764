//! Files that an agent reads and writes through us, where its protocol offers that: in its workspace and nowhere else.

use std::{path::PathBuf, sync::Arc};

use tokio::task::JoinHandle;

use super::{Place, Workspaces};
use crate::{
    agent::{Agent, Command},
    dialect::{Answer, Order},
    worker::{Lane, Workers},
    workspace::LinesWanted,
};

/// What carries out an agent's orders.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) place: Place,
    pub(super) workers: Workers,
    pub(super) workspaces: Arc<dyn Workspaces>,
    /// The workspace as the agent sees it, if otherwise than we do.
    pub(super) seen: Option<PathBuf>,
    /// Bytes that are read at a time.
    pub(super) most: usize,
    /// Which permissions new files do not get.
    pub(super) umask: u32,
}

impl Hands {
    /// Does it on a worker when what was ordered before is done, and tells the agent's task.
    pub(super) fn take(self, run: u32, order: Order, agent: Agent, before: Option<JoinHandle<()>>) -> JoinHandle<()> {
        tokio::spawn(async move {
            if let Some(before) = before {
                // If it did not come back, that is told already.
                let _ = before.await;
            }
            let id = order.id().to_owned();
            let workers = self.workers.clone();
            // The agents of one workspace do not take all threads.
            let key = format!("files of {}", self.place);
            let done = workers
                .call(Lane::Short, Some(&key), move || self.carry_out(&order))
                .await;
            let answer = done.unwrap_or_else(|error| Answer::Failed(error.to_string()));
            agent.send(Command::Answer(run, id, answer)).await;
        })
    }

    /// Blocks.
    fn carry_out(&self, order: &Order) -> Answer {
        let workspace = match self.workspaces.open(&self.place) {
            Ok(workspace) => workspace,
            Err(trouble) => return Answer::Failed(trouble.public),
        };
        let seen = self.seen.as_deref();
        match order {
            Order::ReadFile { path, line, limit, .. } => {
                let lines = LinesWanted {
                    first: line.unwrap_or(1),
                    limit: *limit,
                };
                match workspace.read_text(seen, path, lines, self.most as u64) {
                    Ok(text) => Answer::Text(text),
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            Order::WriteFile { path, content, .. } => match workspace.write_text(seen, path, content, self.umask) {
                Ok(written) => Answer::Written {
                    path: written.path.to_string(),
                    created: written.created,
                },
                Err(error) => Answer::Failed(error.to_string()),
            },
            _ => Answer::Failed("this is not offered here".to_owned()),
        }
    }
}
