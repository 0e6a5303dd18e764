use super::{AgentName, State, Trouble};
use crate::{
    agent::{NotTaken, SpawnFailure},
    base::Fault,
    ledger::LedgerError,
    worker::CallError,
};

/// Why something was not done with an agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is none of that name.
    #[error("there is no agent '{name}'")]
    NotFound {
        /// The name.
        name: String,
    },
    /// There is one of that name.
    #[error("there is an agent '{name}' already")]
    Exists {
        /// The name.
        name: AgentName,
    },
    /// What was asked for makes no sense.
    #[error("{why}")]
    Invalid {
        /// Why.
        why: String,
    },
    /// It runs, and what was asked for is for one that does not.
    #[error("agent '{name}' is {state}: stop it first", state = state.as_str())]
    Running {
        /// The name.
        name: AgentName,
        /// What it is.
        state: State,
    },
    /// It is being stopped, and what was asked for is for one that is not.
    #[error("agent '{name}' is being stopped: wait for its end, or kill it")]
    Stopping {
        /// The name.
        name: AgentName,
    },
    /// There are as many as there may be.
    #[error(
        "there are {most} agents, and no more are allowed (limits.agents); none of them has ended that may be forgotten: remove some"
    )]
    TooMany {
        /// How many.
        most: usize,
    },
    /// As many run as may.
    #[error("{most} agents run, and no more may at a time (limits.agents_running): stop one, or try again later")]
    TooManyRunning {
        /// How many.
        most: usize,
    },
    /// A user has as many that have not ended as one may have.
    #[error(
        "you have {most} agents that have not ended, and nobody may have more (limits.agents_per_user): stop or remove one"
    )]
    TooManyOfUser {
        /// How many.
        most: usize,
    },
    /// Gitstead is about to end.
    #[error("gitstead is closing")]
    Closing,
    /// It was not taken.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// It could not be started, and is not there.
    #[error("{0}")]
    NotStarted(SpawnFailure),
    /// The workspace cannot be had.
    #[error("{0}")]
    Workspace(Trouble),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no room for the work now.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl SessionError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            SessionError::NotFound { .. } => Fault::NotFound,
            SessionError::Exists { .. }
            | SessionError::Invalid { .. }
            | SessionError::Running { .. }
            | SessionError::Stopping { .. }
            | SessionError::NotStarted(_)
            | SessionError::NotTaken(NotTaken::NotRunning | NotTaken::Closed | NotTaken::Refused(_)) => Fault::Client,
            SessionError::TooMany { .. }
            | SessionError::TooManyRunning { .. }
            | SessionError::TooManyOfUser { .. }
            | SessionError::Closing
            | SessionError::NotTaken(_) => Fault::Busy,
            SessionError::Workspace(trouble) => trouble.fault,
            SessionError::Ledger(error) => error.fault(),
            SessionError::Call(error) => error.fault(),
        }
    }
}
