use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use bstr::BString;
use gix::hash::ObjectId;
use serde::Deserialize;
use serde_json::json as value;

use super::{At, Which, revision};
use crate::{
    checkpoint::{self, Checkpoint, RestoreOptions, Squash, SquashOptions, Undone, resolve},
    web::{
        api::{Answer, Api, ApiError, json},
        house::Caller,
        residents::Variant,
        views::{ConflictsView, RestoredView},
    },
};

/// Paths of one restore.
const PATHS: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackBody {
    checkpoint: String,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    dry_run: bool,
    summary: Option<String>,
    agent: Option<String>,
    session: Option<String>,
}

impl BackBody {
    /// `commit` is what the caller's word for the checkpoint means now: `HEAD~1` is another one tomorrow.
    fn options(&self, tool: &str, verb: &str, commit: &ObjectId) -> Result<RestoreOptions, ApiError> {
        if self.paths.len() > PATHS {
            return Err(ApiError::bad_request(format!("at most {PATHS} paths at a time")));
        }
        let mut options = RestoreOptions {
            paths: self.paths.iter().map(|path| BString::from(path.as_str())).collect(),
            dry_run: self.dry_run,
            ..RestoreOptions::default()
        };
        if self.summary.is_some() || self.agent.is_some() || self.session.is_some() {
            let text = self.summary.clone();
            let text = text.unwrap_or_else(|| format!("{verb} {}", commit.to_hex_with_len(10)));
            let mut message = Checkpoint::after(tool, text);
            if let Some(agent) = &self.agent {
                message = message.agent(agent);
            }
            if let Some(session) = &self.session {
                message = message.session(session);
            }
            options.message = Some(message);
        }
        Ok(options)
    }
}

pub(super) async fn restore(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: At,
    request: Request,
) -> Answer {
    let (which, wanted) = Which::asked::<BackBody>(&api, at, request).await?;
    let _turn = which.turn(&api).await?;
    let view = api
        .work(move |api| {
            let workspace = which.changing(api, &who, Variant::default())?;
            let commit = resolve(workspace.repository(), &wanted.checkpoint)?;
            let options = wanted.options("Restore", "Restored", &commit)?;
            let restored = workspace.restore(&commit, &options)?;
            Ok(RestoredView::of(&restored, options.dry_run))
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}

pub(super) async fn undo(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: At,
    request: Request,
) -> Answer {
    let (which, wanted) = Which::asked::<BackBody>(&api, at, request).await?;
    if !wanted.paths.is_empty() {
        return Err(ApiError::bad_request("an undo takes back the whole checkpoint"));
    }
    let _turn = which.turn(&api).await?;
    let done = api
        .work(move |api| {
            let workspace = which.changing(api, &who, Variant::default())?;
            let commit = resolve(workspace.repository(), &wanted.checkpoint)?;
            let options = wanted.options("Undo", "Undid", &commit)?;
            Ok(match workspace.undo(&commit, &options)? {
                Undone::Done(restored) => Ok(RestoredView::of(&restored, options.dry_run)),
                Undone::Conflicts(conflicts) => Err(ConflictsView::from(conflicts.as_slice())),
            })
        })
        .await?;
    match done {
        Ok(view) => Ok(json(StatusCode::OK, &view)),
        Err(conflicts) => Ok(conflicting(
            "what was done since does not go together with taking it back; nothing has changed",
            &conflicts,
        )),
    }
}

fn conflicting(message: &str, conflicts: &ConflictsView) -> Response {
    let body = value!({ "error": { "code": "conflict", "message": message }, "conflicts": conflicts.conflicts });
    json(StatusCode::CONFLICT, &body)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchBody {
    name: String,
    checkpoint: Option<String>,
}

pub(super) async fn branch(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: At,
    request: Request,
) -> Answer {
    let (which, wanted) = Which::asked::<BranchBody>(&api, at, request).await?;
    let view = api
        .work(move |api| {
            let workspace = which.changing(api, &who, Variant::default())?;
            let commit = revision(workspace.repository(), wanted.checkpoint.as_deref())?;
            let made = checkpoint::create_branch(workspace.repository(), &commit, &wanted.name)?;
            Ok(value!({ "branch": made.to_string(), "commit": commit.to_string() }))
        })
        .await?;
    Ok(json(StatusCode::CREATED, &view))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SquashBody {
    branch: String,
    from: Option<String>,
    to: Option<String>,
    onto: Option<String>,
    #[serde(default)]
    append: bool,
    message: Option<String>,
}

pub(super) async fn squash(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: At,
    request: Request,
) -> Answer {
    let (which, wanted) = Which::asked::<SquashBody>(&api, at, request).await?;
    let done = api
        .work(move |api| {
            let workspace = which.changing(api, &who, Variant::default())?;
            let repository = workspace.repository();
            let to = revision(repository, wanted.to.as_deref())?;
            let named = |text: &Option<String>| text.as_deref().map(|text| resolve(repository, text)).transpose();
            let options = SquashOptions {
                from: named(&wanted.from)?,
                onto: named(&wanted.onto)?,
                append: wanted.append,
                message: wanted.message,
                ..SquashOptions::default()
            };
            Ok(match checkpoint::squash(repository, &to, &wanted.branch, &options)? {
                Squash::Done(done) => Ok(value!({
                    "commit": done.commit.to_string(),
                    "parent": done.parent.map(|id| id.to_string()),
                    "branch": done.branch.to_string(),
                    "commits": done.commits,
                })),
                Squash::Conflicts(conflicts) => Err(ConflictsView::from(conflicts.as_slice())),
            })
        })
        .await?;
    match done {
        Ok(view) => Ok(json(StatusCode::CREATED, &view)),
        Err(conflicts) => Ok(conflicting(
            "what the range changed does not go together with what it is put on; nothing was made",
            &conflicts,
        )),
    }
}
