//! The end of a house: all agents are stopped at once, and nobody waits for one before another is told.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{Agents, Cause, Entry, State};
use crate::{agent::Command, worker::Lane};

/// What one that is killed may take for its last checkpoint.
const LAST: Duration = Duration::from_secs(10);

/// How the agents of a house ended that was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Closed {
    /// Those that ended as they were told to, in time. One that heeds nothing ends by the last step of its own way of being stopped, if that is in time.
    pub stopped: usize,
    /// Those that were killed because the time was over.
    pub killed: usize,
    /// Those of them that had not ended even then, or whose last checkpoint was not made: the next server finds out.
    pub left: usize,
}

/// How one of them ended.
enum End {
    Stopped,
    Killed,
    Left,
}

impl Agents {
    /// Stops all, side by side, and waits until they have ended and their last checkpoints are made, or until the time is over: then what is left is killed. Nothing is
    /// started any more from now on.
    pub async fn close(&self, patience: Duration) -> Closed {
        // One for all: whoever is slow takes nothing of the others' time.
        let deadline = Instant::now() + patience;
        let _ = timeout_at(deadline, self.start_no_more()).await;
        let mut ends = JoinSet::new();
        for entry in self.list() {
            if entry.state() != State::Created && !entry.state().is_over() {
                ends.spawn(end(entry, deadline));
            }
        }
        let mut closed = Closed::default();
        while let Some(end) = ends.join_next().await {
            match end {
                Ok(End::Stopped) => closed.stopped += 1,
                Ok(End::Killed) => closed.killed += 1,
                Ok(End::Left) | Err(_) => {
                    closed.killed += 1;
                    closed.left += 1;
                }
            }
        }
        let ledger = self.context().ledger.clone();
        let flushed = self
            .context()
            .workers
            .call(Lane::Short, None, move || ledger.flush())
            .await;
        if let Ok(Err(error)) = flushed {
            tracing::error!(%error, "the ledger was not written to its end");
        }
        closed
    }
}

/// Stops one.
async fn end(entry: Arc<Entry>, deadline: Instant) -> End {
    // One whose task does not even take that is not waited for any longer than the others.
    let _ = timeout_at(deadline, entry.agent.send(Command::Stop(Cause::Shutdown))).await;
    if entry
        .wait(deadline, |status| status.state.is_over())
        .await
        .state
        .is_over()
    {
        return End::Stopped;
    }
    let name = entry.record().name;
    tracing::warn!(agent = %name, "did not stop in time, and is killed");
    let last = Instant::now() + LAST;
    let _ = timeout_at(last, entry.agent.send(Command::Kill(Cause::Shutdown))).await;
    if entry.wait(last, |status| status.state.is_over()).await.state.is_over() {
        return End::Killed;
    }
    tracing::error!(agent = %name, "has not ended even so");
    End::Left
}
