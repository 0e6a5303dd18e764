//! The control API over workspaces and their checkpoints, `/api/v1/workspaces/{repository}/{workspace}`.
//!
//! The name of a repository is one segment of the path: the slashes of a nested one are written `%2F` (`/api/v1/workspaces/team%2Fapp/main`), so that nothing in a path
//! can be meant in two ways. Paths of files are the end of a URL and keep their slashes; bytes that are not UTF-8 are percent-encoded there as any others.

mod back;
mod files;
mod manage;
mod trail;

use std::sync::Arc;

use axum::{
    Router,
    extract::{
        Path, Query, Request,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header},
    response::Response,
    routing::{get, post},
};
use gix::hash::ObjectId;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    api::{Api, ApiError, json, wrong_method},
    house::Caller,
    residents::Variant,
};
use crate::{
    base::{RepoName, Route, WorkspaceName},
    checkpoint::{ReadError, resolve},
    repo::{Odb, Repository},
    workspace::Workspace,
};

/// Entries of a page.
const PAGE: usize = 1_000;

pub(in crate::web) fn workspace_routes() -> Router<Arc<Api>> {
    let of_one = |rest: &str| format!("/api/v1/workspaces/{{repository}}/{{workspace}}{rest}");
    Router::new()
        .route("/api/v1/workspaces", get(manage::list_all).fallback(wrong_method))
        .route(
            "/api/v1/workspaces/{repository}",
            get(manage::list).post(manage::create).fallback(wrong_method),
        )
        .route(
            &of_one(""),
            get(manage::show).delete(manage::remove).fallback(wrong_method),
        )
        .route(
            &of_one("/checkpoints"),
            get(trail::log).post(trail::record).fallback(wrong_method),
        )
        .route(
            &of_one("/checkpoints/{checkpoint}"),
            get(trail::show_checkpoint).fallback(wrong_method),
        )
        .route(&of_one("/diff"), get(trail::diff).fallback(wrong_method))
        .route(&of_one("/files/{*path}"), get(files::file).fallback(wrong_method))
        .route(&of_one("/tree"), get(files::tree).fallback(wrong_method))
        .route(&of_one("/tree/{*path}"), get(files::tree).fallback(wrong_method))
        .route(&of_one("/restore"), post(back::restore).fallback(wrong_method))
        .route(&of_one("/undo"), post(back::undo).fallback(wrong_method))
        .route(&of_one("/branches"), post(back::branch).fallback(wrong_method))
        .route(&of_one("/squash"), post(back::squash).fallback(wrong_method))
}

/// The methods of a path below `/api/v1/workspaces`, for `Allow`.
pub(in crate::web) fn methods_of(path: &str) -> &'static str {
    // "", "api", "v1", "workspaces", repository, workspace, what
    let mut parts = path.split('/').skip(5);
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => "GET, HEAD, POST",
        (_, None, _) => "GET, HEAD, DELETE",
        (_, Some("checkpoints"), None) => "GET, HEAD, POST",
        (_, Some("restore" | "undo" | "branches" | "squash"), _) => "POST",
        _ => "GET, HEAD",
    }
}

type At = Result<Path<(String, String)>, PathRejection>;
type Asked<T> = Result<Query<T>, QueryRejection>;

/// Which workspace a request is for.
#[derive(Clone)]
struct Which {
    repository: RepoName,
    name: WorkspaceName,
}

impl Which {
    fn parse(repository: &str, name: &str) -> Result<Self, ApiError> {
        Ok(Which {
            repository: RepoName::parse(repository)?,
            name: workspace_name(name)?,
        })
    }

    fn of(at: At) -> Result<Self, ApiError> {
        let Path((repository, name)) = at?;
        Self::parse(&repository, &name)
    }

    /// Which workspace, and what is asked of it in the body.
    async fn asked<B: DeserializeOwned>(api: &Api, at: At, request: Request) -> Result<(Self, B), ApiError> {
        let which = Self::of(at)?;
        let (parts, body) = request.into_parts();
        Ok((which, api.body(&parts.headers, body).await?))
    }

    /// For those who only read what is recorded.
    fn reading(&self, api: &Api, who: &Caller) -> Result<Arc<Workspace>, ApiError> {
        api.authorise(who, &self.repository, Route::Inspect, false)?;
        Ok(api.workspaces.get(&self.repository, &self.name)?)
    }

    /// For those who change it.
    fn changing(&self, api: &Api, who: &Caller, variant: Variant) -> Result<Arc<Workspace>, ApiError> {
        api.authorise(who, &self.repository, Route::Manage, false)?;
        Ok(api.workspaces.get_watched(&self.repository, &self.name, variant)?)
    }

    /// Waits for one's turn with it.
    async fn turn(&self, api: &Api) -> Result<OwnedSemaphorePermit, ApiError> {
        let turn = api
            .workspaces
            .turn(&self.repository, &self.name, api.house.limits.queue_wait)
            .await;
        turn.ok_or_else(|| ApiError::busy("others are at work in this workspace"))
    }

    fn url(&self, rest: &str) -> Option<HeaderValue> {
        let repository = self.repository.canonical().replace('/', "%2F");
        // Other characters are in names that somebody else has made.
        HeaderValue::from_str(&format!("/api/v1/workspaces/{repository}/{}{rest}", self.name)).ok()
    }
}

fn workspace_name(text: &str) -> Result<WorkspaceName, ApiError> {
    WorkspaceName::parse(text).map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, "bad_name", error.to_string()))
}

fn created(body: &impl Serialize, location: Option<HeaderValue>) -> Response {
    let mut response = json(StatusCode::CREATED, body);
    if let Some(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The commit that a request names, or HEAD.
fn revision(repository: &Repository, text: Option<&str>) -> Result<ObjectId, ApiError> {
    Ok(resolve(repository, text.unwrap_or("HEAD"))?)
}

fn odb(repository: &Repository) -> Result<Odb, ApiError> {
    Ok(repository.odb().map_err(ReadError::from)?)
}
