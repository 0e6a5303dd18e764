//! `base`: the words every other room uses. Plain values: no IO, no clock of its own, no global state.

mod access;
mod clock;
mod date;
mod fault;
mod fetch;
mod limits;
mod name;
mod workspace_name;

pub use access::{
    Access, AccessError, Action, Ask, Credential, Decision, Grant, Origin, Pattern, Presence, Principal, Route, Rules,
    TOKEN_PREFIX, TokenHash, TokenRule, speaks_locally, tells_of_a_proxy, token_text,
};
pub use clock::{Clock, FixedClock, SystemClock};
pub use date::rfc3339;
pub use fault::Fault;
pub use fetch::{Deepen, Filter, FilterError, Version};
pub use limits::Limits;
pub use name::{NameError, RepoName};
pub use workspace_name::{WorkspaceName, WorkspaceNameError};
