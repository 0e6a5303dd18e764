//! The control API over repositories, `/api/v1/repos`: JSON in, JSON out, the same authoriser as the git routes.
//!
//! What keeps other people's web pages out. A page in the operator's browser can reach a server on loopback. Where nothing is configured, loopback may do
//! everything, so a request only counts as local if `Host` and `Origin` say so too ([`speaks_locally`]): that stops both plain cross-site requests and DNS
//! rebinding. Where tokens are configured, a browser might have one cached as Basic credentials: every change needs either a method (`DELETE`, `PATCH`) or a content
//! type (`application/json`) that a page may only send across sites after asking us first, and we never answer that question; and what calls itself `Sec-Fetch-Site:
//! cross-site` is refused outright.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{
        Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::any,
};
use serde::{Deserialize, Serialize};

use super::{
    agents::{AgentDoors, agent_routes},
    cookie,
    house::{Caller, House, Peer},
    metrics, observe, openapi,
    residents::Residents,
    routes::Routes,
    workspaces::workspace_routes,
};
use crate::{
    base::{Ask, Credential, Decision, Fault, NameError, Presence, Principal, RepoName, Route},
    depot::{CreateOptions, Depot, DepotError, Details},
    session::AskDesk,
    worker::{CallError, Lane},
};

/// Bytes of a request body; the largest sensible one has a name and a description.
const BODY_BYTES: usize = 64 << 10;
/// Names in one page of a listing.
const PAGE: usize = 1000;

/// What the API works with.
#[derive(Debug)]
pub struct Api {
    /// The house it is a door of.
    pub house: Arc<House>,
    /// Where the repositories are.
    pub depot: Arc<Depot>,
    /// What a new repository is like when the request does not say.
    pub create: CreateOptions,
    /// The workspaces that are kept open.
    pub workspaces: Arc<Residents>,
    /// The agents, where there are any.
    pub agents: Option<AgentDoors>,
    /// Where questions are asked, if that is configured.
    pub ask: Option<AskDesk>,
}

/// All that is served here, but for what there is nothing at.
pub(super) fn routes() -> Routes {
    Routes::new()
        .get("/api/v1/repos", list)
        .post("/api/v1/repos", create)
        .get("/api/v1/repos/{*name}", show)
        .patch("/api/v1/repos/{*name}", change)
        .delete("/api/v1/repos/{*name}", remove)
        .get("/api/v1/openapi.json", openapi::document_of_all)
        .get("/metrics", metrics::metrics)
        .merge(workspace_routes())
        .merge(agent_routes())
}

/// The routes, with paths from the root.
pub fn api_routes(api: Arc<Api>) -> Router {
    routes()
        .into_router()
        .route("/api", any(no_such_path))
        .route("/api/{*rest}", any(no_such_path))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), introduce))
        .layer(middleware::from_fn_with_state(Arc::clone(&api.house), observe::observe))
        .with_state(api)
}

/// Finds out who makes the request. What they may do is decided where it is done.
async fn introduce(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let confined = match api.house.is_confined(peer).await {
        Ok(confined) => confined,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let (headers, uri) = (request.headers(), request.uri());
    let authorization = headers.get_all(header::AUTHORIZATION).into_iter();
    let mut shown = Credential::from_authorization(authorization.map(|value| value.as_bytes()));
    let mut is_wanted = true;
    if let Some(name) = api
        .house
        .options
        .token_cookie
        .as_deref()
        .filter(|_| shown == Credential::None)
    {
        shown = cookie::token(headers, name);
        is_wanted = shown == Credential::None || cookie::is_wanted(request.method(), headers, uri);
    }
    let caller = api
        .house
        .caller_with(&shown, request.version(), headers, uri, peer, confined);
    let safe = request.method().is_safe();
    let cross_site = request
        .headers()
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site");
    let mut response = if let Err(decision) = &caller.principal {
        ApiError::of_decision(*decision).into_response()
    } else if (cross_site && !safe) || !is_wanted {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "cross_site",
            "requests from other sites are refused",
        )
        .into_response()
    } else {
        request.extensions_mut().insert(caller.clone());
        next.run(request).await
    };
    response.extensions_mut().insert(caller);
    response
}

/// A repository, as the API and `gitstead repo … --json` show it.
#[derive(Debug, Clone, Serialize)]
pub struct RepositoryInfo {
    /// The name in URLs.
    pub name: String,
    /// `sha1` or `sha256`.
    pub object_format: String,
    /// The ref that HEAD names; null when HEAD is detached or broken.
    pub head: Option<String>,
    /// The commit that HEAD comes to; null while there is none.
    pub head_id: Option<String>,
    /// Whether there is no working tree.
    pub bare: bool,
    /// The repository's description, if it has one.
    pub description: Option<String>,
}

impl From<Details> for RepositoryInfo {
    fn from(details: Details) -> Self {
        RepositoryInfo {
            name: details.name.canonical().to_owned(),
            object_format: details.object_format.to_string(),
            head: details.head.map(|name| name.to_string()),
            head_id: details.head_id.map(|id| id.to_string()),
            bare: details.bare,
            description: details.description,
        }
    }
}

/// An error on its way out: `{"error": {"code": …, "message": …}}`.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorText<'a>,
}

#[derive(Serialize)]
struct ErrorText<'a> {
    code: &'a str,
    message: &'a str,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Later it will do.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        ApiError {
            retry_after: Some(1),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
        }
    }

    /// Somebody asks too much: later it will do.
    pub(super) fn too_many(code: &'static str, message: impl Into<String>, retry_after: u64) -> Self {
        ApiError {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// One has to say who one is.
    pub(super) fn unknown() -> Self {
        Self::of_decision(Decision::NeedUser)
    }

    fn of_decision(decision: Decision) -> Self {
        match decision {
            Decision::NeedUser => Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "a valid token is needed"),
            Decision::Forbidden => Self::new(StatusCode::FORBIDDEN, "forbidden", "not allowed"),
            Decision::NotFound | Decision::Allow => Self::not_found(),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Whether the answer is that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Whether the answer is that one has to say who one is.
    pub(super) fn asks_for_credentials(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "repository not found")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: ErrorText {
                code: self.code,
                message: &self.message,
            },
        };
        let mut response = json(self.status, &body);
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"gitstead\", charset=\"UTF-8\""),
            );
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<DepotError> for ApiError {
    fn from(error: DepotError) -> Self {
        let message = error.to_string();
        match &error {
            DepotError::NotFound { .. } => Self::not_found(),
            DepotError::Exists { .. } => Self::new(StatusCode::CONFLICT, "exists", message),
            DepotError::Inside { .. } | DepotError::InTheWay { .. } | DepotError::Foreign { .. } => {
                Self::new(StatusCode::CONFLICT, "conflict", message)
            }
            DepotError::Name(_) => Self::new(StatusCode::BAD_REQUEST, "bad_name", message),
            DepotError::Branch { .. } => Self::new(StatusCode::BAD_REQUEST, "bad_branch", message),
            other => {
                tracing::error!(error = %chain(other), "a request of the control API failed");
                match other.fault() {
                    Fault::Busy => Self {
                        retry_after: Some(1),
                        ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "try again")
                    },
                    Fault::Corrupt | Fault::Client => Self::new(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "unservable",
                        "the repository cannot be served; the log says why",
                    ),
                    _ => Self::new(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "internal",
                        "internal error; the log says why",
                    ),
                }
            }
        }
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_name", error.to_string())
    }
}

impl From<PathRejection> for ApiError {
    fn from(_: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_name", "the path is not a repository name")
    }
}

impl From<QueryRejection> for ApiError {
    fn from(error: QueryRejection) -> Self {
        Self::bad_request(error.body_text())
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Busy(busy) => ApiError {
                retry_after: Some(busy.retry_after.as_secs().max(1)),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", busy.to_string())
            },
            CallError::Panicked => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error"),
        }
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut text = serde_json::to_vec(body).expect("our own values have string keys and finite numbers");
    text.push(b'\n');
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

type NamePath = Result<Path<String>, PathRejection>;
pub(super) type Answer = Result<Response, ApiError>;

impl Api {
    /// The repositories that somebody may look at, in the order of their names.
    ///
    /// # Errors
    /// Where there is none for anybody who is not known, and those of the file system.
    pub(in crate::web) fn readable<'a>(
        &'a self,
        who: &'a Caller,
        after: Option<&'a str>,
    ) -> Result<impl Iterator<Item = RepoName> + 'a, ApiError> {
        let readable = move |repo: &RepoName| {
            let ask = Ask {
                repo,
                route: Route::Inspect,
                presence: Presence::Present,
                local: who.local,
            };
            self.decide(who, &ask)
        };
        // Nobody who could read nothing at all makes us walk the disk.
        if who.principal == Ok(Principal::Anonymous) {
            readable(&RepoName::parse("any").expect("the word is a name"))?;
        }
        let listing = self.depot.list()?;
        if listing.truncated {
            tracing::warn!("there are more repositories than one listing may look at");
        }
        Ok(listing
            .repositories
            .into_iter()
            .map(|listed| listed.name)
            .filter(move |name| after.is_none_or(|after| name.as_str() > after))
            .filter(move |name| readable(name).is_ok()))
    }

    /// Asks the authoriser, on a worker thread: whether the repository is there is asked of the disk.
    pub(super) fn authorise(
        &self,
        who: &Caller,
        repo: &RepoName,
        route: Route,
        creating: bool,
    ) -> Result<(), ApiError> {
        let there = self.depot.contains(repo)?;
        let presence = match (there, creating) {
            (true, _) => Presence::Present,
            (false, true) => Presence::Creatable,
            (false, false) => Presence::Absent,
        };
        let ask = Ask {
            repo,
            route,
            presence,
            local: who.local,
        };
        self.decide(who, &ask)
    }

    fn decide(&self, who: &Caller, ask: &Ask<'_>) -> Result<(), ApiError> {
        let principal = who
            .principal
            .as_ref()
            .map_err(|decision| ApiError::of_decision(*decision))?;
        match self.house.rules.decide(principal, ask) {
            Decision::Allow => Ok(()),
            other => Err(ApiError::of_decision(other)),
        }
    }

    pub(super) async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Api) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let api = Arc::clone(self);
        self.house.workers.call(Lane::Short, None, move || job(&api)).await?
    }

    /// Reads a JSON body of a request that means to change something.
    pub(super) async fn body<T: serde::de::DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<T, ApiError> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = "the body must be application/json";
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                message,
            ));
        }
        let reading = axum::body::to_bytes(body, BODY_BYTES);
        let bytes = match tokio::time::timeout(self.house.limits.read_idle, reading).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => {
                let message = format!("the body is broken off or longer than {BODY_BYTES} bytes");
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
            }
            Err(_) => {
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "timeout",
                    "the body did not come",
                ));
            }
        };
        serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::bad_request(format!("the body is not as expected: {error}")))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    /// Names after this one.
    after: Option<String>,
    /// At most so many.
    limit: Option<usize>,
}

#[derive(Serialize)]
struct List {
    repositories: Vec<ListItem>,
    /// Where to go on (`?after=`); null at the end.
    next: Option<String>,
}

#[derive(Serialize)]
struct ListItem {
    name: String,
}

async fn list(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let Query(page) = page?;
    let limit = page.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let list = api
        .work(move |api| {
            let mut names = api
                .readable(&who, page.after.as_deref())?
                .map(|name| ListItem { name: name.to_string() });
            let repositories: Vec<_> = names.by_ref().take(limit).collect();
            let more = names.next().is_some();
            let next = repositories.last().filter(|_| more).map(|item| item.name.clone());
            Ok(List { repositories, next })
        })
        .await?;
    Ok(json(StatusCode::OK, &list))
}

async fn show(State(api): State<Arc<Api>>, Extension(who): Extension<Caller>, name: NamePath) -> Answer {
    let name = RepoName::parse(&name?.0)?;
    let info = api
        .work(move |api| {
            api.authorise(&who, &name, Route::Inspect, false)?;
            Ok(RepositoryInfo::from(api.depot.details(&name)?))
        })
        .await?;
    Ok(json(StatusCode::OK, &info))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    object_format: Option<String>,
    default_branch: Option<String>,
    description: Option<String>,
}

async fn create(State(api): State<Arc<Api>>, Extension(who): Extension<Caller>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: Create = api.body(&parts.headers, body).await?;
    let name = RepoName::parse(&wanted.name)?;
    let mut options = api.create.clone();
    match wanted.object_format.as_deref() {
        None => {}
        Some("sha1") => options.object_format = gix::hash::Kind::Sha1,
        Some("sha256") => options.object_format = gix::hash::Kind::Sha256,
        Some(_) => return Err(ApiError::bad_request("object_format is 'sha1' or 'sha256'")),
    }
    if let Some(branch) = wanted.default_branch {
        options.default_branch = branch;
    }
    options.description = wanted.description;
    let info = api
        .work(move |api| {
            api.authorise(&who, &name, Route::Manage, true)?;
            api.depot.create(&name, &options)?;
            tracing::info!(repository = %name, user = who.user(), "created");
            Ok(RepositoryInfo::from(api.depot.details(&name)?))
        })
        .await?;
    let mut response = json(StatusCode::CREATED, &info);
    // Names that may be created have no character that a URL would have to escape.
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/repos/{}", info.name)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    name: Option<String>,
    head: Option<String>,
}

async fn change(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Caller>,
    name: NamePath,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let wanted: Change = api.body(&parts.headers, body).await?;
    let name = RepoName::parse(&name?.0)?;
    let new = wanted.name.as_deref().map(RepoName::parse).transpose()?;
    if new.is_none() && wanted.head.is_none() {
        return Err(ApiError::bad_request("give a new 'name', a new 'head', or both"));
    }
    let info = api
        .work(move |api| {
            api.authorise(&who, &name, Route::Manage, false)?;
            if let Some(new) = &new {
                api.authorise(&who, new, Route::Manage, true)?;
            }
            if let Some(head) = &wanted.head {
                api.depot.set_head(&name, head)?;
            }
            let renamed = new.filter(|new| new.canonical() != name.canonical());
            if let Some(new) = &renamed {
                if let Some(doors) = &api.agents {
                    doors.agents.check_idle(&name, None)?;
                }
                api.depot.rename(&name, new)?;
                tracing::info!(repository = %name, %new, user = who.user(), "renamed");
            }
            let name = renamed.unwrap_or(name);
            Ok(RepositoryInfo::from(api.depot.details(&name)?))
        })
        .await?;
    Ok(json(StatusCode::OK, &info))
}

async fn remove(State(api): State<Arc<Api>>, Extension(who): Extension<Caller>, name: NamePath) -> Answer {
    let name = RepoName::parse(&name?.0)?;
    api.work(move |api| {
        api.authorise(&who, &name, Route::Manage, false)?;
        if let Some(doors) = &api.agents {
            doors.agents.check_idle(&name, None)?;
        }
        api.depot.delete(&name)?;
        tracing::info!(repository = %name, user = who.user(), "deleted");
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn no_such_path() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}
