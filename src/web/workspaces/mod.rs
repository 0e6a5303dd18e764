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
    extract::{
        Path, Query, Request,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use gix::hash::ObjectId;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    api::{Api, ApiError, json},
    house::Caller,
    residents::Variant,
    routes::Routes,
};
use crate::{
    base::{RepoName, Route, WorkspaceName},
    checkpoint::{ReadError, resolve},
    repo::{Odb, Repository},
    workspace::Workspace,
};

/// Entries of a page.
const PAGE: usize = 1_000;

pub(in crate::web) fn workspace_routes() -> Routes {
    let of_one = |rest: &str| format!("/api/v1/workspaces/{{repository}}/{{workspace}}{rest}");
    Routes::new()
        .get("/api/v1/workspaces", manage::list_all)
        .get("/api/v1/workspaces/{repository}", manage::list)
        .post("/api/v1/workspaces/{repository}", manage::create)
        .get(&of_one(""), manage::show)
        .delete(&of_one(""), manage::remove)
        .get(&of_one("/checkpoints"), trail::log)
        .post(&of_one("/checkpoints"), trail::record)
        .get(&of_one("/checkpoints/{checkpoint}"), trail::show_checkpoint)
        .get(&of_one("/diff"), trail::diff)
        .get(&of_one("/files/{*path}"), files::file)
        .get(&of_one("/tree"), files::tree)
        .get(&of_one("/tree/{*path}"), files::tree)
        .post(&of_one("/restore"), back::restore)
        .post(&of_one("/undo"), back::undo)
        .post(&of_one("/branches"), back::branch)
        .post(&of_one("/squash"), back::squash)
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
