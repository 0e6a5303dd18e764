use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse as _,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    At, Deed, Who, authorise, doors, entry,
    views::{AgentView, CreateBody},
};
use crate::{
    session::{AgentName, Cause, Entry, Place, trace_of},
    web::api::{Answer, Api, ApiError, json},
};

/// The longest that one request waits.
const WAIT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAsked {
    repository: Option<String>,
}

#[derive(Serialize)]
struct AgentList {
    agents: Vec<AgentView>,
}

fn view(entry: &Entry) -> AgentView {
    AgentView::from(&entry.record())
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    who: Who,
    asked: Result<Query<ListAsked>, QueryRejection>,
) -> Answer {
    let asked = asked?.0;
    let all = doors(&api)?.agents.list();
    let list = api
        .work(move |api| {
            if let Some(repository) = &asked.repository {
                let repository = crate::base::RepoName::parse(repository)?;
                authorise(api, &who, &repository, Deed::Look, true)?;
            } else if all.is_empty() {
                let any = crate::base::RepoName::parse("any").expect("the word is a name");
                // Who could read nothing learns not even that.
                if who.caller.principal == Ok(crate::base::Principal::Anonymous) {
                    authorise(api, &who, &any, Deed::Look, true)?;
                }
            }
            let mut agents = Vec::new();
            let mut refused = None;
            for entry in &all {
                let record = entry.record();
                if asked
                    .repository
                    .as_ref()
                    .is_some_and(|name| *name != record.spec.repository)
                {
                    continue;
                }
                match authorise(api, &who, &entry.place_of()?, Deed::Look, true) {
                    Ok(()) => {
                        let all = authorise(api, &who, &entry.place_of()?, Deed::Manage, true).is_ok();
                        let view = AgentView::from(&record);
                        agents.push(if all { view } else { view.for_onlookers() });
                    }
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(error) if agents.is_empty() && error.asks_for_credentials() => Err(error),
                _ => Ok(AgentList { agents }),
            }
        })
        .await?;
    Ok(json(StatusCode::OK, &list))
}

pub(super) async fn create(State(api): State<Arc<Api>>, who: Who, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: CreateBody = api.body(&parts.headers, body).await?;
    let place = Place::parse(&wanted.repository, wanted.workspace.as_deref().unwrap_or("main"))?;
    let name = match &wanted.name {
        Some(name) => {
            let bad = |error: crate::session::AgentNameError| {
                ApiError::new(StatusCode::BAD_REQUEST, "bad_name", error.to_string())
            };
            Some(AgentName::parse(name).map_err(bad)?)
        }
        None => None,
    };
    let starts = wanted.start;
    let mut spec = wanted.spec(&place).map_err(ApiError::bad_request)?;
    if spec.trace.is_none() {
        let told = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
        spec.trace = told.and_then(trace_of).map(str::to_owned);
    }
    let (asker, repository) = (who.clone(), place.repository.clone());
    api.work(move |api| authorise(api, &asker, &repository, Deed::Manage, true))
        .await?;
    let owner = who.caller.user().map(str::to_owned);
    let agents = &doors(&api)?.agents;
    let entry = match starts {
        true => agents.launch(name, spec, owner).await?,
        false => agents.create(name, spec, owner).await?,
    };
    let name = entry.record().name;
    tracing::info!(agent = %name, workspace = %place, user = who.caller.user(), "agent created");
    let mut response = json(StatusCode::CREATED, &view(&entry));
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/agents/{name}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

pub(super) async fn show(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Look).await?;
    Ok(json(StatusCode::OK, &seen_by(&api, who, &entry).await?))
}

/// What somebody who may look at an agent sees of it.
async fn seen_by(api: &Arc<Api>, who: Who, entry: &Arc<Entry>) -> Result<AgentView, ApiError> {
    let here = entry.clone();
    let all = api
        .work(move |api| Ok(authorise(api, &who, &here.place_of()?, Deed::Manage, true).is_ok()))
        .await?;
    let view = view(entry);
    Ok(if all { view } else { view.for_onlookers() })
}

pub(super) async fn remove(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Manage).await?;
    let name = entry.record().name;
    doors(&api)?.agents.remove(name.as_str()).await?;
    if let Some(desk) = &api.ask {
        desk.forget_sessions_of(&entry);
    }
    tracing::info!(agent = %name, user = who.caller.user(), "agent removed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn start(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Manage).await?;
    doors(&api)?.agents.start(&entry).await?;
    Ok(json(StatusCode::ACCEPTED, &view(&entry)))
}

pub(super) async fn stop(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Manage).await?;
    entry.stop(Cause::Asked).await;
    Ok(json(StatusCode::ACCEPTED, &view(&entry)))
}

pub(super) async fn kill(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Manage).await?;
    entry.kill().await;
    Ok(json(StatusCode::ACCEPTED, &view(&entry)))
}

pub(super) async fn restart(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Manage).await?;
    doors(&api)?.agents.restart(&entry).await?;
    Ok(json(StatusCode::ACCEPTED, &view(&entry)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitAsked {
    #[serde(default)]
    until: Until,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Until {
    /// It has ended.
    #[default]
    Ended,
    /// It can be talked to, or has ended.
    Ready,
    /// It has nothing to do, or has ended.
    Idle,
}

/// Waits for an agent, and says what it is then, whether that came true or not.
pub(super) async fn wait(
    State(api): State<Arc<Api>>,
    who: Who,
    at: At,
    asked: Result<Query<WaitAsked>, QueryRejection>,
) -> Answer {
    let Query(asked) = asked?;
    let entry = entry(&api, &who, at, Deed::Look).await?;
    let time = asked.timeout_ms.map_or(WAIT, Duration::from_millis).min(WAIT);
    let waiting = entry.wait(Instant::now() + time, |status| match asked.until {
        Until::Ended => status.state.is_over(),
        Until::Ready => status.state.is_over() || status.state.is_up(),
        Until::Idle => status.state.is_over() || matches!(status.state, crate::session::State::Idle),
    });
    tokio::select! {
        _ = waiting => {}
        () = doors(&api)?.closed.cancelled() => {}
    }
    Ok(json(StatusCode::OK, &seen_by(&api, who, &entry).await?))
}
