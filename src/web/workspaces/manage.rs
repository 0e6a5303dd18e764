use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Query, Request, State, rejection::PathRejection},
    http::StatusCode,
    response::IntoResponse as _,
};
use serde::{Deserialize, Serialize};

use super::{Asked, At, Which, created, revision};
use crate::{
    base::{RepoName, Route},
    checkpoint::Checkpoint,
    web::{
        api::{Answer, Api, ApiError, json},
        house::Caller,
        views::WorkspaceView,
    },
    workspace::{CreateWorkspace, Start, Unsaved},
};

#[derive(Serialize)]
struct WorkspaceList {
    workspaces: Vec<WorkspaceView>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    repository: Result<Path<String>, PathRejection>,
) -> Answer {
    let repository = RepoName::parse(&repository?.0)?;
    let list = api
        .work(move |api| {
            api.authorise(&who, &repository, Route::Inspect, false)?;
            let workspaces = api.depot.workspaces(&repository)?;
            Ok(WorkspaceList {
                workspaces: workspaces.iter().map(WorkspaceView::from).collect(),
            })
        })
        .await?;
    Ok(json(StatusCode::OK, &list))
}

/// Repositories whose workspaces one answer lists.
const REPOSITORIES: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AfterRepository {
    after: Option<String>,
}

#[derive(Serialize)]
struct Everywhere {
    workspaces: Vec<WorkspaceOf>,
    /// `after` of the next page; null on the last one.
    next: Option<String>,
}

#[derive(Serialize)]
struct WorkspaceOf {
    repository: String,
    #[serde(flatten)]
    workspace: WorkspaceView,
}

/// The workspaces of every repository that the caller may look at.
pub(super) async fn list_all(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    page: Asked<AfterRepository>,
) -> Answer {
    let Query(page) = page?;
    let list = api
        .work(move |api| {
            let mut names = api.readable(&who, page.after.as_deref())?;
            let (mut workspaces, mut last) = (Vec::new(), None);
            for name in names.by_ref().take(REPOSITORIES) {
                match api.depot.workspaces(&name) {
                    Ok(entries) => workspaces.extend(entries.iter().map(|entry| WorkspaceOf {
                        repository: name.to_string(),
                        workspace: entry.into(),
                    })),
                    Err(error) => {
                        tracing::warn!(repository = %name, %error, "the workspaces of a repository cannot be listed")
                    }
                }
                last = Some(name.to_string());
            }
            let next = last.filter(|_| names.next().is_some());
            Ok(Everywhere { workspaces, next })
        })
        .await?;
    Ok(json(StatusCode::OK, &list))
}

/// The workspace as its repository lists it.
fn listed(api: &Api, which: &Which) -> Result<WorkspaceView, ApiError> {
    let all = api.depot.workspaces(&which.repository)?;
    let found = all.iter().find(|entry| entry.name == which.name);
    let none = || ApiError::new(StatusCode::NOT_FOUND, "not_found", "workspace not found");
    Ok(found.ok_or_else(none)?.into())
}

pub(super) async fn show(State(api): State<Arc<Api>>, Extension(who): Extension<Caller>, at: At) -> Answer {
    let which = Which::of(at)?;
    let view = api
        .work(move |api| {
            api.authorise(&who, &which.repository, Route::Inspect, false)?;
            listed(api, &which)
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    /// Begins with nothing but this task; makes the repository if need be.
    task: Option<String>,
    /// Begins on this branch.
    from: Option<String>,
    /// Begins at this commit.
    at: Option<String>,
    /// Begins with what this repository has, in a new one.
    fork: Option<String>,
    /// The branch that it is on.
    branch: Option<String>,
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    repository: Result<Path<String>, PathRejection>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: CreateBody = api.body(&parts.headers, body).await?;
    let which = Which::parse(&repository?.0, &wanted.name)?;
    let source = wanted.fork.as_deref().map(RepoName::parse).transpose()?;
    let beginnings = [wanted.task.is_some(), wanted.from.is_some(), source.is_some()];
    let many = beginnings.into_iter().filter(|given| *given).count();
    if many > 1 || (wanted.at.is_some() && (wanted.task.is_some() || wanted.from.is_some())) {
        return Err(ApiError::bad_request(
            "give one of 'task', 'from', 'at' and 'fork' ('at' goes with 'fork')",
        ));
    }
    let _turn = which.turn(&api).await?;
    let location = which.url("");
    let view = api
        .work(move |api| {
            let makes_repository = wanted.task.is_some() || source.is_some();
            api.authorise(&who, &which.repository, Route::Manage, makes_repository)?;
            let start = match (source, wanted.task, wanted.from, wanted.at) {
                (Some(source), _, _, at) => {
                    api.authorise(&who, &source, Route::Inspect, false)?;
                    let at = match at {
                        Some(at) => Some(revision(&*api.depot.open(&source)?, Some(&at))?),
                        None => None,
                    };
                    Start::Fork { source, at }
                }
                (None, Some(task), ..) => Start::Empty { task },
                (None, None, Some(branch), _) => Start::Branch(branch),
                (None, None, None, Some(at)) => {
                    Start::Commit(revision(&*api.depot.open(&which.repository)?, Some(&at))?)
                }
                (None, None, None, None) => Start::Default,
            };
            let create = CreateWorkspace {
                start,
                branch: wanted.branch,
                repository: api.create.clone(),
                options: api.workspaces.options().clone(),
                ..CreateWorkspace::default()
            };
            api.depot.create_workspace(&which.repository, &which.name, &create)?;
            tracing::info!(repository = %which.repository, workspace = %which.name, user = who.user(), "workspace created");
            listed(api, &which)
        })
        .await?;
    Ok(created(&view, location))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    #[serde(default)]
    unsaved: UnsavedWord,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(super) enum UnsavedWord {
    #[default]
    Refuse,
    Checkpoint,
    Discard,
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: At,
    query: Asked<RemoveQuery>,
) -> Answer {
    let which = Which::of(at)?;
    let unsaved = query?.0.unsaved;
    let _turn = which.turn(&api).await?;
    api.work(move |api| {
        api.authorise(&who, &which.repository, Route::Manage, false)?;
        if let Some(doors) = &api.agents {
            doors.agents.check_idle(&which.repository, Some(which.name.as_str()))?;
        }
        api.workspaces.forget(&which.repository, &which.name);
        let mut save = |held: &mut crate::workspace::Held<'_>| {
            held.checkpoint(Checkpoint::message("Last checkpoint of the workspace"))?;
            Ok(())
        };
        let unsaved = match unsaved {
            UnsavedWord::Refuse => Unsaved::Refuse,
            UnsavedWord::Checkpoint => Unsaved::Save(&mut save),
            UnsavedWord::Discard => Unsaved::Discard,
        };
        let options = api.workspaces.options();
        api.depot
            .remove_workspace_with(&which.repository, &which.name, unsaved, options)?;
        tracing::info!(repository = %which.repository, workspace = %which.name, user = who.user(), "workspace removed");
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
