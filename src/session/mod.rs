//! `session`: an agent at work in a workspace.
//!
//! Promise: what an agent does becomes checkpoints: one when a tool has finished, before the agent goes on wherever it can be made to wait, and for commands that tell of no
//! tools when their files have come to rest; and a last one when nothing of it is left, before it counts as ended. Every change of an agent is an event with a number, and is in
//! the ledger. After a restart nothing that ran is claimed to run still.

mod ask;
mod attach;
mod audit;
mod close;
mod container;
mod entry;
mod env;
mod error;
mod events;
mod fence;
mod files;
mod host;
mod house;
mod letta;
mod metrics;
mod permits;
mod pieces;
mod policy;
mod quota;
mod record;
mod room;
mod shared;
mod spec;
mod start;
mod tally;
mod trace;
mod trail;
mod transcript;
mod uuid;

pub use crate::agent::{
    Bounds, Cause, CgroupChoice, Cgroups, Exit, Isolation, LogLine, LogPage, LogRing, NotTaken, Reaction, Restart,
    RestartMode, State, Stream, Watchdog, Watchdogs, is_held_outside, resident, spooled_from, spooled_tail,
};
pub use ask::{
    Answered, AskDesk, AskError, AskRules, Asker, Asking, HistoryEntry, HistorySlice, MOST_HISTORY, QUESTION,
    Readiness, SessionList, SessionView, Whose,
};
pub use attach::{Attachment, Entrance, Located};
pub use audit::{Audit, AuditFlush, AuditRules};
pub use close::Closed;
pub use container::ContainerSpec;
pub use entry::{Entry, Given};
pub use error::SessionError;
pub use events::{EventLog, EventPage};
pub use fence::{Fences, SandboxMode, SandboxSpec};
pub use house::{Agents, Context};
pub use letta::{LettaBlockSpec, LettaSpec, LettaSystemSpec, SleeptimeSpec, Versions};
pub use metrics::Weighed;
pub use policy::{PermissionRule, RuleDecision, check_rules};
pub use record::AgentRecord;
pub use spec::{AgentName, AgentNameError, AgentSpec, Place};
pub use trace::trace_of;
pub use trail::{Trouble, Turn, Workspaces};
pub use transcript::{Transcript, TranscriptPage};

/// What must not be shown of an agent: the secrets that its last run was started with.
type Veil = arc_swap::ArcSwapOption<crate::agent::Redactor>;
