//! `service`: git's two services without a face.
//!
//! A request and a repository go in, bytes come out of a `Write`. Blocking; no HTTP, no async, no threads of its own, and nothing of a request is kept whole
//! except what `limits` bounds. What can be said to the client is said in the stream (`ERR`, the error channel, `ng`); the same error is
//! returned for the log.

mod advertise;
mod answers;
mod band;
mod context;
mod dumb;
mod error;
mod input;
mod live;
mod ls_refs;
mod negotiate;
mod receive;
mod upload;
mod wants;

pub use advertise::advertise;
pub use answers::AnswerCache;
pub use context::{Context, Service};
pub use dumb::{DumbFile, dumb_file, dumb_info_packs, dumb_info_refs};
pub use error::ServiceError;
pub use live::{LiveError, LiveOutcome, LiveState, LiveWorktree, LiveWorktrees, TakenWorktree};
pub use receive::{ReceiveSummary, RefResult, receive_pack};
pub use upload::upload_pack;
