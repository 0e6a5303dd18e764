//! Conversations with an agent, `/api/v1/agents/{agent}/sessions`: each belongs to whoever began it, and has an agent of its own that is started as that one is, in the same workspace.

use std::sync::Arc;

use axum::{
    extract::{
        Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse as _,
};
use serde::Deserialize;
use serde_json::{Value, json as value};
use tokio::sync::{mpsc, oneshot};

use super::{
    Deed, Who,
    ask::timestamp,
    doors, entry,
    stream::{channel, event_of, events_response, told, wants_stream},
    talk::{PermitBody, decide, open_questions},
};
use crate::{
    base::rfc3339,
    session::{Agents, Answered, AskDesk, AskError, Asker, Entry, MOST_HISTORY, QUESTION, SessionView},
    web::{
        api::{Answer, Api, ApiError, json},
        routes::Routes,
    },
};

/// Sessions or entries in one answer.
const PAGE: usize = 100;
/// Events read at a time.
const EVENTS: usize = 200;

pub(super) fn session_routes() -> Routes {
    let all = "/api/v1/agents/{agent}/sessions";
    let of_one = |rest: &str| format!("{all}/{{session}}{rest}");
    Routes::new()
        .get(all, list)
        .post(all, create)
        .get(&of_one(""), show)
        .delete(&of_one(""), close)
        .post(&of_one("/ask"), ask)
        .post(&of_one("/interrupt"), interrupt)
        .get(&of_one("/permissions"), permissions)
        .post(&of_one("/permissions/{request}"), permit)
        .get(&of_one("/history"), history)
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        let text = error.to_string();
        match error {
            AskError::NoSession => ApiError::new(StatusCode::NOT_FOUND, "not_found", text),
            AskError::NoPlace => ApiError::new(StatusCode::BAD_REQUEST, "bad_cursor", text),
            AskError::RateLimited { retry_after, .. } => ApiError::too_many("rate_limited", text, retry_after),
            AskError::Busy | AskError::Full => ApiError::too_many("busy", text, 1),
            AskError::TooManySessions => ApiError::new(StatusCode::CONFLICT, "too_many", text),
            AskError::TimedOut => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", text),
            AskError::Failed { .. } => ApiError::new(StatusCode::BAD_GATEWAY, "agent_failed", text),
            AskError::Session(error) => error.into(),
        }
    }
}

/// Whoever asks for something about his sessions with an agent.
struct Room {
    desk: AskDesk,
    asker: Asker,
    of: Arc<Entry>,
}

impl Room {
    async fn of(api: &Arc<Api>, who: &Who, agent: String) -> Result<Self, ApiError> {
        let of = entry(api, who, Ok(Path(agent)), Deed::Manage).await?;
        if of.record().desk.is_some() {
            let text = "this agent answers in a session: it has none of its own";
            return Err(ApiError::new(StatusCode::CONFLICT, "conflict", text));
        }
        let desk = api.ask.clone();
        Ok(Room {
            desk: desk.ok_or_else(|| doors(api).err().unwrap_or_else(|| ApiError::busy("no sessions")))?,
            asker: who.asker(),
            of,
        })
    }

    /// One of his sessions.
    fn session(&self, id: &str) -> Result<SessionView, ApiError> {
        if !AskDesk::is_session_id(id) {
            return Err(AskError::NoSession.into());
        }
        Ok(self.desk.show(&self.asker.user, id, Some(&self.of))?)
    }

    /// The agent that answers in one of his sessions.
    fn agent(&self, id: &str) -> Result<Arc<Entry>, ApiError> {
        self.session(id)?;
        self.desk.agent_of(&self.asker.user, id)?.ok_or_else(|| {
            let text = "nobody has asked anything in this session";
            ApiError::new(StatusCode::CONFLICT, "not_taken", text)
        })
    }

    fn shown(&self, session: &SessionView) -> Value {
        let time = |millis: u64| rfc3339(i64::try_from(millis / 1_000).unwrap_or(i64::MAX), 0);
        value!({
            "id": session.id,
            "agent": self.of.record().name,
            "owner": session.owner,
            "answered_by": session.agent,
            "state": session.state.unwrap_or("new"),
            "busy": session.is_busy,
            "conversation": session.conversation,
            "questions": session.questions,
            "created_at": time(session.created),
            "asked_at": session.asked.map(time),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageAsked {
    cursor: Option<String>,
    limit: Option<usize>,
}

impl PageAsked {
    fn limit(&self) -> Result<usize, ApiError> {
        match self.limit {
            None => Ok(PAGE),
            Some(limit) if (1..=MOST_HISTORY).contains(&limit) => Ok(limit),
            Some(_) => Err(ApiError::bad_request(format!("'limit' is 1 to {MOST_HISTORY}"))),
        }
    }
}

type At = Result<Path<String>, PathRejection>;
type AtSession = Result<Path<(String, String)>, PathRejection>;

/// There is nothing to say about a session yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {}

async fn create(State(api): State<Arc<Api>>, who: Who, at: At, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    if parts.headers.contains_key(header::CONTENT_TYPE) {
        let NewBody {} = api.body(&parts.headers, body).await?;
    }
    let room = Room::of(&api, &who, at?.0).await?;
    let made = room.desk.new_session(&room.asker.user, Some(&room.of)).await?;
    let mut response = json(StatusCode::CREATED, &room.shown(&made));
    let path = format!("/api/v1/agents/{}/sessions/{}", room.of.record().name, made.id);
    if let Ok(location) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn list(
    State(api): State<Arc<Api>>,
    who: Who,
    at: At,
    asked: Result<Query<PageAsked>, QueryRejection>,
) -> Answer {
    let Query(asked) = asked?;
    let limit = asked.limit()?;
    let room = Room::of(&api, &who, at?.0).await?;
    let found = room
        .desk
        .list(&room.asker.user, &room.of, asked.cursor.as_deref(), limit)?;
    let sessions: Vec<_> = found.sessions.iter().map(|one| room.shown(one)).collect();
    Ok(json(
        StatusCode::OK,
        &value!({ "sessions": sessions, "cursor": found.cursor }),
    ))
}

async fn show(State(api): State<Arc<Api>>, who: Who, at: AtSession) -> Answer {
    let Path((agent, id)) = at?;
    let room = Room::of(&api, &who, agent).await?;
    let session = room.session(&id)?;
    Ok(json(StatusCode::OK, &room.shown(&session)))
}

async fn close(State(api): State<Arc<Api>>, who: Who, at: AtSession) -> Answer {
    let Path((agent, id)) = at?;
    let room = Room::of(&api, &who, agent).await?;
    room.session(&id)?;
    room.desk.close(&room.asker.user, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskBody {
    message: String,
    #[serde(default)]
    stream: bool,
}

async fn ask(State(api): State<Arc<Api>>, who: Who, at: AtSession, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: AskBody = api.body(&parts.headers, body).await?;
    let length = wanted.message.chars().count();
    if length == 0 || length > QUESTION {
        return Err(ApiError::bad_request(format!(
            "'message' has 1 to {QUESTION} characters"
        )));
    }
    let Path((agent, id)) = at?;
    let room = Room::of(&api, &who, agent).await?;
    room.session(&id)?;
    let asking = room.desk.begin(room.asker, &id, wanted.message).await?;
    if !wanted.stream && !wants_stream(&parts.headers) {
        return Ok(json(StatusCode::OK, &asking.answer(|_, _| ()).await?));
    }
    let (agents, closed) = (doors(&api)?.agents.clone(), doors(&api)?.closed.clone());
    let (send, events) = channel();
    let (begins, begun) = oneshot::channel();
    let (ends, ended) = oneshot::channel();
    let gone = send.clone();
    tokio::spawn(async move {
        let answer = asking.answer(move |entry, seq| drop(begins.send((Arc::clone(entry), seq))));
        tokio::select! {
            result = answer => drop(ends.send(result)),
            // Whoever has left does not want the rest of the work either.
            () = gone.closed() => {}
            () = closed.cancelled() => {}
        }
    });
    // Beside it, so that a slow reader does not make a slow answer.
    tokio::spawn(tell(agents, send, begun, ended));
    Ok(events_response(events))
}

/// Whether it is a text that was told in pieces.
fn is_told(event: &str) -> bool {
    let event: serde_json::Value = serde_json::from_str(event).unwrap_or_default();
    event["type"] == "said" && event["in_pieces"] == true
}

type Told = Result<Answered, AskError>;

/// Tells what an agent does for a question, and at last the answer.
async fn tell(
    agents: Agents,
    send: mpsc::Sender<axum::response::sse::Event>,
    begun: oneshot::Receiver<(Arc<Entry>, u64)>,
    mut ended: oneshot::Receiver<Told>,
) {
    let mut result = None;
    if let Ok((entry, asked)) = begun.await {
        let mut bell = entry.events().follow();
        let mut cursor = asked.saturating_sub(1);
        'events: loop {
            bell.borrow_and_update();
            let Ok(page) = agents.events_after(&entry, cursor, EVENTS).await else {
                break;
            };
            for (seq, event) in &page.events {
                // What comes after the answer is of the next question.
                if matches!(&result, Some(Ok(Answered { seq: last, .. })) if seq > last) {
                    break 'events;
                }
                // Who reads here has had it in pieces.
                if event.contains(r#""in_pieces":true"#) && is_told(event) {
                    continue;
                }
                if send.send(event_of(*seq, event)).await.is_err() {
                    return;
                }
            }
            cursor = page.cursor;
            if !page.events.is_empty() {
                continue;
            }
            if result.is_some() {
                break;
            }
            tokio::select! {
                changed = bell.changed() => if changed.is_err() { break },
                told = &mut ended => match told {
                    Ok(told) => result = Some(told),
                    Err(_) => return,
                },
                () = send.closed() => return,
            }
        }
    }
    let result = match result {
        Some(result) => Ok(result),
        None => ended.await,
    };
    let last = match result {
        Ok(Ok(answered)) => told(None::<u64>, "answer", value!(answered).to_string()),
        Ok(Err(error)) => {
            let error = ApiError::from(error);
            let text = value!({ "code": error.code(), "message": error.message() });
            let status = error.status().as_u16();
            told(
                None::<u64>,
                "error",
                value!({ "error": text, "status": status }).to_string(),
            )
        }
        Err(_) => return,
    };
    let _ = send.send(last).await;
}

async fn interrupt(State(api): State<Arc<Api>>, who: Who, at: AtSession) -> Answer {
    let Path((agent, id)) = at?;
    let room = Room::of(&api, &who, agent).await?;
    room.agent(&id)?.interrupt().await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn permissions(State(api): State<Arc<Api>>, who: Who, at: AtSession) -> Answer {
    let Path((agent, id)) = at?;
    let room = Room::of(&api, &who, agent).await?;
    room.session(&id)?;
    match room.desk.agent_of(&room.asker.user, &id)? {
        Some(entry) => Ok(open_questions(&entry)),
        None => Ok(json(StatusCode::OK, &value!({ "permissions": [] }))),
    }
}

async fn permit(
    State(api): State<Arc<Api>>,
    who: Who,
    at: Result<Path<(String, String, String)>, PathRejection>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: PermitBody = api.body(&parts.headers, body).await?;
    let Path((agent, id, question)) = at?;
    let room = Room::of(&api, &who, agent).await?;
    let entry = room.agent(&id)?;
    decide(&entry, &question, wanted, Some(&room.asker.user), &room.asker).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn history(
    State(api): State<Arc<Api>>,
    who: Who,
    at: AtSession,
    asked: Result<Query<PageAsked>, QueryRejection>,
) -> Answer {
    let Query(asked) = asked?;
    let limit = asked.limit()?;
    let Path((agent, id)) = at?;
    let room = Room::of(&api, &who, agent).await?;
    room.session(&id)?;
    let slice = room
        .desk
        .history(&room.asker.user, &id, asked.cursor.as_deref(), limit)
        .await?;
    let messages: Vec<_> = slice
        .entries
        .iter()
        .map(|one| value!({ "id": one.id, "role": one.role, "text": one.text, "timestamp": timestamp(one) }))
        .collect();
    let source = if slice.is_own { "agent" } else { "journal" };
    Ok(json(
        StatusCode::OK,
        &value!({ "messages": messages, "cursor": slice.older, "source": source }),
    ))
}
