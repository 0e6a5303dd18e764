//! The house as the faces see it, and the routes that lead into it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, Uri, Version as HttpVersion, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use bstr::BString;
use tokio::sync::Semaphore;

use super::{git, hands::Hands, observe, reply::Refusal};
use crate::{
    base::{Clock, Credential, Decision, Limits, Origin, Principal, Rules, speaks_locally, tells_of_a_proxy},
    service::AnswerCache,
    worker::{CallError, Lane, Workers},
};

/// Fetch requests of up to 1 MiB each that are kept in memory at a time.
const COLLECTED_BODIES: usize = 128;

/// Everything the routes need. Made once by the composition root; shared by all requests.
pub struct House {
    /// Repositories and the services on them.
    pub hands: Arc<dyn Hands>,
    /// Who may do what.
    pub rules: Rules,
    /// Bounds.
    pub limits: Limits,
    /// Answers to fetches, for those who ask the same again.
    pub answers: AnswerCache,
    /// What the operator chose.
    pub options: Options,
    /// The threads that do the work.
    pub workers: Workers,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Room for bodies that are collected before there is a worker for them.
    pub(super) collecting: Arc<Semaphore>,
    /// Requests are named by this and a number.
    run: String,
    requests: AtomicU64,
    closing: AtomicBool,
    guard: OnceLock<Arc<dyn Guard>>,
    wellness: OnceLock<Vec<Check>>,
}

/// A part without which a server is not ready for everything.
pub struct Check {
    /// What it is called in `/readyz`.
    pub name: &'static str,
    /// What is wrong with it, if something is: one line, without anything that a stranger may not read. Must return at once.
    pub trouble: Box<dyn Fn() -> Option<&'static str> + Send + Sync>,
}

/// What the operator chose about the faces.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The path before repository names: empty, or with a slash at its beginning and none at its end.
    pub url_prefix: String,
    /// git's namespace.
    pub namespace: Option<BString>,
    /// Whether a push to a name that does not exist makes the repository.
    pub create_on_push: bool,
    /// Whether a fetch of what does not exist makes it, too, for those who may push.
    pub create_on_fetch: bool,
    /// Whether repositories are those of Letta's agents, and asked for as Letta asks.
    pub letta_memfs: bool,
    /// The header in which a proxy on loopback names the user.
    pub trusted_user_header: Option<HeaderName>,
    /// The cookie that may hold a token in place of a header, on the control API's paths.
    pub token_cookie: Option<String>,
    /// Public names of this server ([`Origin::own_hosts`]).
    pub hosts: Vec<String>,
}

/// The address of the client, as an extension of each request. [`serve`](super::serve) puts it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The name of a request in the log, as an extension of each request: `<random>-<number>`.
#[derive(Debug, Clone)]
pub struct RequestId(pub Arc<str>);

/// Who made a request. As an extension of a response it goes into the access log.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who it is, or what an unusable credential is answered with.
    pub principal: Result<Principal, Decision>,
    /// Whether the request was made on this machine ([`speaks_locally`]).
    pub local: bool,
    /// The address, if known.
    pub peer: Option<IpAddr>,
}

impl Caller {
    /// The user's name, for reflogs and logs; `None` for the anonymous.
    pub fn user(&self) -> Option<&str> {
        self.principal.as_ref().ok().and_then(Principal::name)
    }

    /// The address as text; `unknown` without one.
    pub fn address(&self) -> String {
        match self.peer {
            Some(peer) => peer.to_canonical().to_string(),
            None => "unknown".to_owned(),
        }
    }
}

impl House {
    /// Puts a house together.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new(
        hands: Arc<dyn Hands>,
        rules: Rules,
        limits: Limits,
        options: Options,
        workers: Workers,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, getrandom::Error> {
        let mut random = [0; 6];
        getrandom::fill(&mut random)?;
        Ok(House {
            hands,
            rules,
            answers: AnswerCache::new(limits.answer_cache_bytes),
            limits,
            options,
            workers,
            clock,
            collecting: Arc::new(Semaphore::new(COLLECTED_BODIES)),
            run: random.iter().map(|byte| format!("{byte:02x}")).collect(),
            requests: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            guard: OnceLock::new(),
            wellness: OnceLock::new(),
        })
    }

    /// Says that the house is about to close: `/readyz` answers 503 from now on, so that balancers send nobody.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Has `/readyz` look at these, too. Once.
    pub fn set_checks(&self, checks: Vec<Check>) {
        let _ = self.wellness.set(checks);
    }

    pub(super) fn next_request_id(&self) -> RequestId {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        RequestId(format!("{}-{number}", self.run).into())
    }

    /// Who makes a request. Looks at headers and address only; every route that executes something asks, and then decides with
    /// [`Rules::decide`].
    ///
    /// One that is `confined` ([`is_confined`](Self::is_confined)) is nobody of this machine, and no proxy.
    pub fn caller(
        &self,
        version: HttpVersion,
        headers: &HeaderMap,
        uri: &Uri,
        peer: Option<SocketAddr>,
        confined: bool,
    ) -> Caller {
        let shown = Credential::from_authorization(
            headers
                .get_all(header::AUTHORIZATION)
                .into_iter()
                .map(|value| value.as_bytes()),
        );
        self.caller_with(&shown, version, headers, uri, peer, confined)
    }

    /// The same, with another credential than that in the headers.
    pub(super) fn caller_with(
        &self,
        shown: &Credential,
        version: HttpVersion,
        headers: &HeaderMap,
        uri: &Uri,
        peer: Option<SocketAddr>,
        confined: bool,
    ) -> Caller {
        let values = |name: &HeaderName| headers.get_all(name).into_iter().map(|value| value.as_bytes());
        let from_loopback = !confined && peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
        let proxy = match &self.options.trusted_user_header {
            Some(name) if from_loopback => Credential::from_user_header(values(name)),
            _ => Credential::None,
        };
        let single = |name: HeaderName| {
            let mut all = headers.get_all(name).into_iter();
            let first = all.next()?;
            // What cannot be read, or is said twice, is said by nobody of ours.
            let text = if all.next().is_some() {
                None
            } else {
                first.to_str().ok()
            };
            Some(text.unwrap_or("said.badly"))
        };
        let host = uri.authority().map(|authority| authority.as_str());
        let local = !confined
            && speaks_locally(&Origin {
                peer: peer.map(|peer| peer.ip()),
                host: host.or_else(|| single(header::HOST)),
                origin: single(header::ORIGIN),
                forwarded: headers.keys().any(|name| tells_of_a_proxy(name.as_str())),
                http_1_0: matches!(version, HttpVersion::HTTP_09 | HttpVersion::HTTP_10),
                own_hosts: &self.options.hosts,
            });
        Caller {
            principal: self.rules.identify(&proxy, shown),
            local,
            peer: peer.map(|peer| peer.ip()),
        }
    }
}

impl House {
    /// Has `guard` say of whom on this machine is not to be trusted as its user. Once.
    pub fn set_guard(&self, guard: Arc<dyn Guard>) {
        let _ = self.guard.set(guard);
    }

    /// Whether a request comes from an agent in a sandbox: what it may not reach by itself it is not to have from us.
    ///
    /// # Errors
    /// When nobody has the time to look.
    pub(super) async fn is_confined(&self, peer: Option<SocketAddr>) -> Result<bool, CallError> {
        let Some(guard) = self.guard.get().filter(|guard| guard.watches()) else {
            return Ok(false);
        };
        let Some(peer) = peer.filter(|peer| peer.ip().to_canonical().is_loopback()) else {
            return Ok(false);
        };
        let guard = Arc::clone(guard);
        self.workers
            .call(Lane::Short, None, move || guard.is_confined(peer))
            .await
    }
}

/// Who tells agents in sandboxes from everybody else on this machine.
pub trait Guard: Send + Sync + 'static {
    /// Whether there are any. Asked with every request.
    fn watches(&self) -> bool;
    /// Whether the other end of a connection over loopback is one. Blocks.
    fn is_confined(&self, peer: SocketAddr) -> bool;
}

impl fmt::Debug for House {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("House")
            .field("options", &self.options)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// All routes of the house.
pub fn router(house: Arc<House>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(git::route)
        .layer(middleware::from_fn_with_state(Arc::clone(&house), observe::observe))
        .with_state(house)
}

/// `?exclude=NAME` leaves a part out: git is served without agents, too.
async fn ready(State(house): State<Arc<House>>, request: Request) -> Response {
    let unready = |text: &str| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    if house.closing.load(Ordering::Relaxed) {
        return unready("closing");
    }
    let query = request.uri().query().unwrap_or_default();
    let excluded = |name: &str| query.split('&').any(|part| part.strip_prefix("exclude=") == Some(name));
    let checks = house.wellness.get().into_iter().flatten();
    for check in checks.filter(|check| !excluded(check.name)) {
        if let Some(trouble) = (check.trouble)() {
            return unready(&format!("{}: {trouble}", check.name));
        }
    }
    "ok\n".into_response()
}
