use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Query, Request, State, rejection::PathRejection},
    http::StatusCode,
};
use bstr::BString;
use serde::Deserialize;

use super::{Asked, At, PAGE, Which, created, odb};
use crate::{
    checkpoint::{self, DiffOptions, LogCursor, LogQuery, resolve, shadow_of, tree_of},
    web::{
        api::{Answer, Api, ApiError, json},
        house::Caller,
        residents::Variant,
        views::{DiffView, LogView, OutcomeView, ShownView},
        wish::CheckpointWish,
    },
};

/// Bytes of differences in one answer.
const PATCH_BYTES: usize = 4 << 20;
/// Files that one answer lists.
const FILES: usize = 5_000;
/// What stands for the files as they are.
const LIVE: &str = "live";

pub(super) async fn record(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: At,
    request: Request,
) -> Answer {
    let (which, wanted) = Which::asked::<CheckpointWish>(&api, at, request).await?;
    let variant = Variant {
        shadow: wanted.shadow,
        skip_unchanged: wanted.skip_unchanged,
    };
    let checkpoint = wanted
        .checkpoint()
        .map_err(|_| ApiError::bad_request("outcome is 'ok', 'failed' or 'interrupted'"))?;
    let _turn = which.turn(&api).await?;
    let named = which.clone();
    let view = api
        .work(move |api| {
            let workspace = which.changing(api, &who, variant)?;
            Ok(OutcomeView::from(&workspace.checkpoint(checkpoint)?))
        })
        .await?;
    match &view.commit {
        Some(id) => Ok(created(&view, named.url(&format!("/checkpoints/{id}")))),
        None => Ok(json(StatusCode::OK, &view)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogAsked {
    at: Option<String>,
    tool: Option<String>,
    agent: Option<String>,
    session: Option<String>,
    path: Option<String>,
    #[serde(default)]
    changed: bool,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    shadow: bool,
    limit: Option<usize>,
    cursor: Option<String>,
}

pub(super) async fn log(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: At,
    asked: Asked<LogAsked>,
) -> Answer {
    let which = Which::of(at)?;
    let Query(asked) = asked?;
    let view = api
        .work(move |api| {
            let workspace = which.reading(api, &who)?;
            let repository = workspace.repository();
            let cursor: Option<LogCursor> = asked.cursor.as_deref().map(str::parse).transpose()?;
            let tip = match &asked.at {
                Some(at) => Some(resolve(repository, at)?),
                None if asked.shadow => shadow_of(&workspace)?,
                None => repository.head(None).map_err(checkpoint::ReadError::from)?.id(),
            };
            let Some(tip) = tip else {
                return Ok(LogView::empty());
            };
            let mut query = LogQuery::default();
            (query.tool, query.agent, query.session) = (asked.tool, asked.agent, asked.session);
            query.path = asked.path.map(BString::from);
            query.only_changed = asked.changed;
            query.all_commits = asked.all;
            query.entries = asked.limit.unwrap_or(50).clamp(1, PAGE);
            Ok(LogView::from(&checkpoint::log(
                repository,
                &tip,
                cursor.as_ref(),
                &query,
            )?))
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}

pub(super) async fn show_checkpoint(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: Result<Path<(String, String, String)>, PathRejection>,
) -> Answer {
    let Path((repository, name, text)) = at?;
    let which = Which::parse(&repository, &name)?;
    let view = api
        .work(move |api| {
            let workspace = which.reading(api, &who)?;
            let id = resolve(workspace.repository(), &text)?;
            let options = DiffOptions {
                files: FILES,
                ..DiffOptions::default()
            };
            Ok(ShownView::from(&checkpoint::show(
                workspace.repository(),
                &id,
                &options,
            )?))
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiffAsked {
    from: Option<String>,
    to: Option<String>,
    path: Option<String>,
    #[serde(default)]
    stat: bool,
}

pub(super) async fn diff(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    at: At,
    asked: Asked<DiffAsked>,
) -> Answer {
    let which = Which::of(at)?;
    let Query(asked) = asked?;
    let is_live = asked.to.as_deref().is_none_or(|to| to == LIVE);
    let _turn = match is_live {
        true => Some(which.turn(&api).await?),
        false => None,
    };
    let view = api
        .work(move |api| {
            let mut options = DiffOptions::default();
            (options.files, options.patch_bytes) = (FILES, PATCH_BYTES);
            options.paths = asked.path.map(BString::from).into_iter().collect();
            let mut skipped = Vec::new();
            let workspace = which.reading(api, &who)?;
            let repository = workspace.repository();
            let from = match &asked.from {
                Some(from) => Some(resolve(repository, from)?),
                None => repository.head(None).map_err(checkpoint::ReadError::from)?.id(),
            };
            let (to, to_name) = match asked.to.filter(|_| !is_live) {
                Some(to) => {
                    let id = resolve(repository, &to)?;
                    (tree_of(&odb(repository)?, &id)?, id.to_string())
                }
                None => {
                    // The objects of the live files are written; nobody sees them, and no ref moves.
                    let watched = api
                        .workspaces
                        .get_watched(&which.repository, &which.name, Variant::default())?;
                    let (tree, left) = watched.lock()?.live_tree()?;
                    skipped = left;
                    (tree, LIVE.to_owned())
                }
            };
            let odb = odb(repository)?;
            let from_tree = match &from {
                Some(from) => Some(tree_of(&odb, from)?),
                None => None,
            };
            let diff = checkpoint::diff(&odb, from_tree.as_deref(), Some(&to), &options)?;
            let from = from.map(|id| id.to_string());
            Ok(DiffView::of(&diff, from, to_name, !asked.stat, &skipped))
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}
