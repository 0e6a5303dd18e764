//! `web`: the HTTP faces.
//!
//! Promise: thin. A request is understood, admitted and handed to a worker; what comes back is given the form HTTP wants. Every route
//! that executes something decides itself who may (`base::access` has the rules), from the path it will act on. Nothing here knows what is inside a
//! repository, and no text of a client reaches a log or a terminal with its control characters.

mod agents;
mod api;
mod cookie;
mod depot_hands;
mod git;
mod hands;
mod hooks;
mod house;
mod inflate;
mod listen;
mod live;
mod metrics;
mod observe;
mod openapi;
mod path;
mod reply;
mod residents;
mod routes;
mod trail_errors;
mod turn;
mod views;
mod wish;
mod workspaces;

pub use agents::{AgentDoors, AgentView, ResidentWorkspaces};
pub use api::{Api, RepositoryInfo, api_routes};
pub use depot_hands::DepotHands;
pub use hands::{Doors, Failure, Hands, Served};
pub use hooks::{HOOK_FRAME, HOOK_SOCKET, HookAsk, HookDoor, HookReply};
pub use house::{Caller, Check, House, Options, Peer, RequestId, router};
pub use listen::{Drain, serve};
pub use live::{OnPushApplied, PushApplied};
pub use reply::Refusal;
pub use residents::Residents;
pub use views::{
    ChangeView, CommitView, ConflictsView, DiffView, FileDiffView, LogEntryView, LogView, OutcomeView, PathView,
    PlaceView, RestoredView, SaidView, ShownView, SideView, SignatureView, SkippedView, TrailerView, TreeEntryView,
    TreeView, WhyView, WorkspaceView,
};
pub use wish::{CheckpointWish, TrailerWish};
