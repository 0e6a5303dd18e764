//! The paths of the ask service: `/agent/health`, `/agent/ready`, `/agent/sessions/new`, `/agent/ask`, `/agent/sessions/{id}/history`, with its shapes and texts.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{Deed, Who, authorise};
use crate::{
    base::rfc3339,
    session::{AskDesk, AskError, Asker, HistoryEntry, MOST_HISTORY, SessionError},
    web::api::{self, Api, ApiError, chain},
};

/// The longest question that one may ask, in characters.
const MOST: usize = crate::session::QUESTION;

fn told(status: StatusCode, detail: &str) -> Response {
    api::json(status, &json!({ "detail": detail }))
}

/// An answer of the control API in the form of this one.
fn refused(error: ApiError) -> Response {
    let status = error.status();
    let text = error.message().to_owned();
    let mut response = told(status, &text);
    if let Some(value) = error.into_response().headers().get(header::WWW_AUTHENTICATE) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value.clone());
    }
    response
}

fn failed(error: &AskError) -> Response {
    let text = error.to_string();
    match error {
        AskError::NoSession => told(StatusCode::NOT_FOUND, &text),
        AskError::RateLimited { retry_after, .. } => {
            let mut response = told(StatusCode::TOO_MANY_REQUESTS, &text);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
            response
        }
        AskError::Busy
        | AskError::Full
        | AskError::TooManySessions
        | AskError::Session(SessionError::TooManyRunning { .. } | SessionError::TooManyOfUser { .. }) => {
            let mut response = told(StatusCode::TOO_MANY_REQUESTS, &text);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(1));
            response
        }
        AskError::TimedOut => told(StatusCode::GATEWAY_TIMEOUT, &text),
        AskError::Failed { .. } | AskError::Session(SessionError::NotTaken(_)) => told(StatusCode::BAD_GATEWAY, &text),
        other => {
            tracing::error!(error = %chain(other), "a question could not be asked");
            told(StatusCode::BAD_GATEWAY, "the agent cannot be asked; the log says why")
        }
    }
}

/// The desk, and who is at it, if he may.
async fn desk(api: &Arc<Api>, who: Who) -> Result<(AskDesk, Asker), Response> {
    let desk = api.ask.clone().filter(|desk| desk.spec().is_some());
    let desk = desk.ok_or_else(|| told(StatusCode::NOT_FOUND, "Not Found"))?;
    let place = desk.spec().expect("it was looked for").place();
    let repository = match place {
        Ok(place) => place.repository,
        Err(error) => return Err(refused(error.into())),
    };
    let asker = who.asker();
    api.work(move |api| authorise(api, &who, &repository, Deed::Manage, true))
        .await
        .map_err(refused)?;
    Ok((desk, asker))
}

pub(super) async fn health(State(api): State<Arc<Api>>) -> Response {
    match api.ask.as_ref().is_some_and(|desk| desk.spec().is_some()) {
        true => api::json(StatusCode::OK, &json!({ "status": "ok" })),
        false => told(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// Whether a question would be answered now, for whoever may ask one.
pub(super) async fn ready(State(api): State<Arc<Api>>, who: Who) -> Response {
    let desk = match desk(&api, who).await {
        Ok((desk, _)) => desk,
        Err(response) => return response,
    };
    let Some(found) = desk.readiness().await else {
        let mut response = told(StatusCode::SERVICE_UNAVAILABLE, "nobody has the time to look");
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(1));
        return response;
    };
    let (status, word) = match found.is_ready() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    let body = json!({
        "status": word,
        "dialect": found.dialect,
        "program": found.program,
        "program_found": found.is_program_found,
        "sessions_dir_exists": found.has_sessions_dir,
        "questions": { "running": found.running, "waiting": found.waiting, "most": found.most },
        "sessions": found.sessions,
        "agents": found.agents,
    });
    api::json(status, &body)
}

pub(super) async fn new_session(State(api): State<Arc<Api>>, who: Who) -> Response {
    let (desk, asker) = match desk(&api, who).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    match desk.new_session(&asker.user, None).await {
        Ok(made) => api::json(StatusCode::OK, &json!({ "session_id": made.id })),
        Err(error) => failed(&error),
    }
}

#[derive(Deserialize)]
struct Question {
    session_id: String,
    message: String,
}

pub(super) async fn ask(State(api): State<Arc<Api>>, who: Who, request: Request) -> Response {
    let (desk, asker) = match desk(&api, who).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    let (parts, body) = request.into_parts();
    let question: Question = match api.body(&parts.headers, body).await {
        Ok(question) => question,
        Err(error) if error.status() == StatusCode::BAD_REQUEST => {
            return told(StatusCode::UNPROCESSABLE_ENTITY, error.message());
        }
        Err(error) => return refused(error),
    };
    let length = question.message.chars().count();
    if length == 0 || length > MOST {
        let text = format!("message has 1 to {MOST} characters");
        return told(StatusCode::UNPROCESSABLE_ENTITY, &text);
    }
    if !AskDesk::is_session_id(&question.session_id) {
        return told(StatusCode::BAD_REQUEST, "invalid session_id");
    }
    match desk.ask(asker, &question.session_id, question.message).await {
        Ok(answer) => {
            let told = json!({
                "result": answer.result,
                "session_id": answer.session_id,
                "duration_ms": answer.duration_ms,
                "num_turns": answer.num_turns,
                "is_error": answer.is_error,
            });
            api::json(StatusCode::OK, &told)
        }
        Err(error) => failed(&error),
    }
}

pub(super) async fn history(
    State(api): State<Arc<Api>>,
    who: Who,
    at: Result<Path<String>, PathRejection>,
) -> Response {
    let (desk, asker) = match desk(&api, who).await {
        Ok(found) => found,
        Err(response) => return response,
    };
    let id = at.map(|Path(id)| id).unwrap_or_default();
    if !AskDesk::is_session_id(&id) {
        return told(StatusCode::BAD_REQUEST, "invalid session_id");
    }
    match desk.history(&asker.user, &id, None, MOST_HISTORY).await {
        Ok(slice) => {
            let messages: Vec<_> = slice
                .entries
                .iter()
                .map(|entry| json!({ "role": entry.role, "text": entry.text, "timestamp": timestamp(entry) }))
                .collect();
            api::json(StatusCode::OK, &json!({ "messages": messages }))
        }
        Err(AskError::NoSession) => failed(&AskError::NoSession),
        Err(error) => {
            tracing::error!(error = %chain(&error), "a history could not be read");
            told(StatusCode::INTERNAL_SERVER_ERROR, "failed to read session")
        }
    }
}

/// When something was said, as RFC 3339 has it.
pub(super) fn timestamp(entry: &HistoryEntry) -> Option<String> {
    let told = |millis: u64| rfc3339(i64::try_from(millis / 1_000).unwrap_or(i64::MAX), 0);
    entry.at.clone().or(entry.at_ms.map(told))
}
