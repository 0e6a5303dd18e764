//! The control API over agents, `/api/v1/agents`.
//!
//! An agent belongs to the repository of its workspace: who may manage that may manage the agent and see what it says; who may look at it may see that there is one. To start an
//! agent is to start a program of one's choice as the user who runs Gitstead. Where nothing is configured that tells friend from stranger, it is therefore asked whose
//! connection it is ([`peer`]): another user of this machine may use the git server, and may not start programs.

mod ask;
mod attach;
mod hands;
mod manage;
mod peer;
mod sessions;
mod stream;
mod talk;
mod views;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Extension,
    extract::{
        FromRequestParts, Path,
        rejection::{ExtensionRejection, PathRejection},
    },
    http::{StatusCode, request::Parts},
};
use tokio_util::sync::CancellationToken;

use super::{
    api::{Api, ApiError, chain},
    house::{Caller, Guard, Peer, RequestId},
    openapi,
    routes::Routes,
};
use crate::{
    base::{Fault, Principal, RepoName, Route},
    session::{Agents, Asker, Entry, NotTaken, SessionError},
};

pub use hands::ResidentWorkspaces;
pub use views::AgentView;

/// The agents of a house, as its doors need them.
#[derive(Debug, Clone)]
pub struct AgentDoors {
    /// The agents.
    pub agents: Agents,
    /// Where this server listens.
    pub address: SocketAddr,
    /// Cancelled when the house has closed: whoever still follows is let go.
    pub closed: CancellationToken,
}

pub(in crate::web) fn agent_routes() -> Routes {
    let of_one = |rest: &str| format!("/api/v1/agents/{{agent}}{rest}");
    Routes::new()
        .get("/api/v1/agents", manage::list)
        .post("/api/v1/agents", manage::create)
        .get(&of_one(""), manage::show)
        .delete(&of_one(""), manage::remove)
        .post(&of_one("/start"), manage::start)
        .post(&of_one("/stop"), manage::stop)
        .post(&of_one("/kill"), manage::kill)
        .post(&of_one("/restart"), manage::restart)
        .get(&of_one("/attach"), attach::attach)
        .get(&of_one("/wait"), manage::wait)
        .post(&of_one("/input"), talk::input)
        .post(&of_one("/ask"), talk::ask)
        .post(&of_one("/change"), talk::change)
        .post(&of_one("/interrupt"), talk::interrupt)
        .get(&of_one("/permissions"), talk::permissions)
        .post(&of_one("/permissions/{request}"), talk::permit)
        .get("/agent/health", ask::health)
        .get("/agent/ready", ask::ready)
        .get("/agent/openapi.json", openapi::document_of_asking)
        .post("/agent/sessions/new", ask::new_session)
        .post("/agent/ask", ask::ask)
        .get("/agent/sessions/{session}/history", ask::history)
        .get(&of_one("/logs"), stream::logs)
        .get(&of_one("/output"), stream::output)
        .get(&of_one("/events"), stream::events)
        .merge(sessions::session_routes())
}

type At = Result<Path<String>, PathRejection>;

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        let text = error.to_string();
        match error {
            SessionError::NotFound { .. } => ApiError::new(StatusCode::NOT_FOUND, "not_found", text),
            SessionError::Exists { .. } => ApiError::new(StatusCode::CONFLICT, "exists", text),
            SessionError::Invalid { .. } => ApiError::bad_request(text),
            SessionError::Running { .. } => ApiError::new(StatusCode::CONFLICT, "running", text),
            SessionError::Stopping { .. } => ApiError::new(StatusCode::CONFLICT, "stopping", text),
            SessionError::NotStarted(_) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "not_started", text),
            SessionError::NotTaken(NotTaken::Full) => ApiError::busy(text),
            SessionError::NotTaken(_) => ApiError::new(StatusCode::CONFLICT, "not_taken", text),
            SessionError::Call(error) => error.into(),
            SessionError::TooManyOfUser { .. } => ApiError::too_many("too_many_agents", text, 10),
            other => match other.fault() {
                Fault::Busy => ApiError::busy(text),
                Fault::NotFound => ApiError::new(StatusCode::NOT_FOUND, "not_found", text),
                Fault::Client => ApiError::new(StatusCode::CONFLICT, "conflict", text),
                _ => {
                    tracing::error!(error = %chain(&other), "a request about an agent failed");
                    ApiError::new(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "internal",
                        "internal error; the log says why",
                    )
                }
            },
        }
    }
}

/// The agents, if this server has any.
fn doors(api: &Api) -> Result<&AgentDoors, ApiError> {
    api.agents.as_ref().ok_or_else(|| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_agents",
            "this server runs no agents; its log says why",
        )
    })
}

/// Somebody who makes a request, and from where.
#[derive(Clone)]
struct Who {
    caller: Caller,
    peer: Option<Peer>,
    request: Option<RequestId>,
}

impl Who {
    /// Whose sessions these are. Where nothing is configured everybody who may do this is one user.
    fn user(&self) -> &str {
        self.caller.user().unwrap_or("local")
    }

    fn asker(&self) -> Asker {
        Asker {
            user: self.user().to_owned(),
            address: self.peer.map(|peer| peer.0.ip().to_canonical().to_string()),
            request: self.request.clone().map(|request| request.0.to_string()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ExtensionRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let Extension(caller) = Extension::from_request_parts(parts, state).await?;
        Ok(Who {
            caller,
            peer: parts.extensions.get().copied(),
            request: parts.extensions.get().cloned(),
        })
    }
}

/// What is meant to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// Only to see that it is there.
    Look,
    /// To see how it is started, and to start and stop it.
    Manage,
    /// To see what it does and says, and to have it do something. An agent that answers in somebody's session is for him alone.
    Talk,
}

impl Deed {
    fn route(self) -> Route {
        match self {
            Deed::Look => Route::Inspect,
            Deed::Manage | Deed::Talk => Route::Manage,
        }
    }
}

impl Guard for AgentDoors {
    fn watches(&self) -> bool {
        self.agents.has_confined()
    }

    fn is_confined(&self, peer: SocketAddr) -> bool {
        peer::is_confined(peer, self.address.port(), &self.agents.confined())
    }
}

/// Whether somebody may; on a worker thread.
fn authorise(api: &Api, who: &Who, repository: &RepoName, deed: Deed, creating: bool) -> Result<(), ApiError> {
    api.authorise(&who.caller, repository, deed.route(), creating)?;
    // A name that a proxy sends can be sent by whoever reaches this port: it opens repositories, but to start programs takes a token or this user's own connection.
    let has_token = matches!(who.caller.principal, Ok(Principal::Token { .. }));
    if deed != Deed::Look && !has_token {
        peer::same_user(who.peer, doors(api)?.address.port())?;
    }
    Ok(())
}

/// The agent of that name, for somebody who may. Who may not look at its repository learns nothing of it.
async fn entry(api: &Arc<Api>, who: &Who, at: At, deed: Deed) -> Result<Arc<Entry>, ApiError> {
    let name = at?.0;
    let found = doors(api)?.agents.get(&name);
    let who = who.clone();
    api.work(move |api| {
        let entry = match found {
            Ok(entry) => entry,
            Err(error) => {
                // As if there were one that nobody may see.
                let any = RepoName::parse("any").expect("the word is a name");
                return match api.authorise(&who.caller, &any, Route::Inspect, true) {
                    Ok(()) => Err(error.into()),
                    Err(refused) if who.caller.principal == Ok(Principal::Anonymous) => Err(refused),
                    Err(_) => Err(error.into()),
                };
            }
        };
        let repository = entry.place_of()?;
        let allowed = authorise(api, &who, &repository, deed, true);
        let record = entry.record();
        let is_others = record.desk.is_some() && record.owner.as_deref() != Some(who.user());
        match allowed {
            Ok(()) if deed == Deed::Talk && is_others => Err(SessionError::NotFound { name }.into()),
            Ok(()) => Ok(entry),
            Err(refused) if refused.is_not_found() => Err(SessionError::NotFound { name }.into()),
            Err(refused) => Err(refused),
        }
    })
    .await
}

impl Entry {
    /// The repository that says who may.
    fn place_of(&self) -> Result<RepoName, ApiError> {
        Ok(self.record().spec.place()?.repository)
    }
}
