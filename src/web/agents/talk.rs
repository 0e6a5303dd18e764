use std::sync::Arc;

use axum::{
    extract::{Path, Request, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::Engine as _;
use serde::Deserialize;
use serde_json::json as value;

use super::{At, Deed, Who, entry};
use crate::{
    dialect::{Change, Decision},
    session::{Asker, Entry},
    web::api::{Answer, Api, ApiError, json},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputBody {
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    close: bool,
}

pub(super) async fn input(State(api): State<Arc<Api>>, who: Who, at: At, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: InputBody = api.body(&parts.headers, body).await?;
    let bytes = match (wanted.text, wanted.base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| ApiError::bad_request("'base64' is none"))?,
        (None, None) if wanted.close => Vec::new(),
        _ => return Err(ApiError::bad_request("give 'text' or 'base64', or only 'close'")),
    };
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    if !bytes.is_empty() {
        entry.input(bytes, who.caller.user()).await?;
    }
    if wanted.close {
        entry.close_input().await;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskBody {
    message: String,
}

pub(super) async fn ask(State(api): State<Arc<Api>>, who: Who, at: At, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: AskBody = api.body(&parts.headers, body).await?;
    if wanted.message.is_empty() {
        return Err(ApiError::bad_request("'message' is empty"));
    }
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    let given = entry.ask(wanted.message, who.caller.user()).await?;
    Ok(json(
        StatusCode::ACCEPTED,
        &value!({ "seq": given.seq, "message_id": given.message }),
    ))
}

pub(super) async fn interrupt(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    entry.interrupt().await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    model: Option<String>,
    permission_mode: Option<String>,
}

/// Has an agent that runs go on with another model, or in another mode.
pub(super) async fn change(State(api): State<Arc<Api>>, who: Who, at: At, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: ChangeBody = api.body(&parts.headers, body).await?;
    let model = wanted.model.map(Change::Model);
    let changes: Vec<_> = model
        .into_iter()
        .chain(wanted.permission_mode.map(Change::PermissionMode))
        .collect();
    if changes.is_empty() || !changes.iter().all(Change::is_sound) {
        return Err(ApiError::bad_request("give 'model' or 'permission_mode', each a name"));
    }
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    for change in changes {
        entry.change(change).await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) async fn permissions(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    Ok(open_questions(&entry))
}

/// What an agent wants to be allowed.
pub(super) fn open_questions(entry: &Entry) -> Response {
    let open: Vec<_> = entry
        .questions()
        .into_iter()
        .map(|(asked, question)| {
            value!({
                "request": asked.to_string(),
                "call": question.call.as_deref().map(|call| entry.hide(call)),
                "tool": entry.hide(&question.tool),
                "name": entry.hide(&question.name),
                "summary": entry.hide(&question.summary),
                "input": entry.hide(&question.input),
                "remembers": question.remembers,
            })
        })
        .collect();
    json(StatusCode::OK, &value!({ "permissions": open }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PermitBody {
    decision: Word,
    /// Told to the agent with a refusal.
    message: Option<String>,
    /// Whether a refusal ends the turn.
    #[serde(default)]
    stop: bool,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Always,
    Deny,
}

pub(super) async fn permit(
    State(api): State<Arc<Api>>,
    who: Who,
    at: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: PermitBody = api.body(&parts.headers, body).await?;
    let Path((agent, question)) = at?;
    let entry = entry(&api, &who, Ok(Path(agent)), Deed::Talk).await?;
    decide(&entry, &question, wanted, who.caller.user(), &who.asker()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Answers a question of an agent's.
pub(super) async fn decide(
    entry: &Entry,
    question: &str,
    wanted: PermitBody,
    by: Option<&str>,
    asker: &Asker,
) -> Result<(), ApiError> {
    let decision = match wanted.decision {
        Word::Allow => Decision::Allow,
        Word::Always => Decision::AllowAlways,
        Word::Deny => Decision::Deny {
            reason: wanted.message.unwrap_or_default(),
            stop: wanted.stop,
        },
    };
    let is_open = match question.parse() {
        Ok(asked) => entry.permit(asked, decision, by, asker).await,
        Err(_) => false,
    };
    match is_open {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "this question is not open (any more)",
        )),
    }
}
