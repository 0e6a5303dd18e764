//! The git routes: from a request to a job on a worker, and from what it answers to a response.
//!
//! Authorisation happens in the job itself, right before what it allows, with the repository's own settings at hand.

use std::{
    fs::File,
    io::{Cursor, Read, Write},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version as HttpVersion, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    hands::{Doors, Failure, Served},
    house::{Caller, House, Peer, RequestId},
    inflate::{BodyFailure, RequestBody, Wire},
    path::{self, Endpoint},
    reply::{Cache, Head, Refusal},
};
use crate::{
    base::{Ask, Decision, Presence, RepoName, Route, Version},
    service::{Context, DumbFile, Service},
    worker::{Answer, BodyReader, Busy, CHUNK_BYTES, CallError, Lane, Pace, Reply},
};

/// So much of a body is collected before a worker is asked for, so that slow senders of small requests hold no thread.
const SMALL_BODY: usize = 64 << 10;
/// So much of what asks for a pack: few fetches say more. House-wide there are [`House::collecting`] bodies of this size at a time.
const FETCH_BODY: usize = 1 << 20;

/// So much of a body that nobody wants is still taken, so that the client gets to read why.
const DRAIN_BYTES: u64 = 64 << 20;
const BUSY_DRAIN_BYTES: u64 = 8 << 20;
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for, once the path and the query are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    Advertisement(Service),
    InfoRefs,
    InfoPacks,
    File { relative: String, length_only: bool },
    UploadPack,
    ReceivePack,
}

impl Want {
    fn route(&self, doors: Doors) -> Route {
        match self {
            Want::Advertisement(Service::UploadPack) | Want::UploadPack => Route::UploadPack {
                enabled: doors.upload_pack,
            },
            Want::Advertisement(Service::ReceivePack) | Want::ReceivePack => Route::ReceivePack {
                setting: doors.receive_pack,
            },
            Want::InfoRefs | Want::InfoPacks | Want::File { .. } => Route::DumbFile {
                enabled: doors.any_file,
            },
        }
    }
}

/// One request on its way to a worker.
struct Job {
    house: Arc<House>,
    caller: Caller,
    address: String,
    session: Arc<str>,
    name: RepoName,
    want: Want,
    version: Version,
    /// For POST: the type that was sent, if it is not the one there should be.
    wrong_type: Option<Refusal>,
    body: RequestBody,
    /// For a body of more than [`SMALL_BODY`] in memory.
    room: Option<OwnedSemaphorePermit>,
}

/// Everything beneath the prefix that is not another route.
pub(super) async fn route(State(house): State<Arc<House>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
    let confined = match house.is_confined(peer).await {
        Ok(confined) => confined,
        Err(CallError::Busy(busy)) => return Refusal::from(busy).into_response(),
        Err(CallError::Panicked) => {
            return Refusal::of_fault(crate::base::Fault::Ours, "internal server error").into_response();
        }
    };
    let caller = house.caller(parts.version, &parts.headers, &parts.uri, peer, confined);
    let mut response = match prepare(&house, &caller, &parts, body) {
        Ok(job) => run(&house, job).await.unwrap_or_else(Refusal::into_response),
        Err(refusal) => refusal.into_response(),
    };
    response.extensions_mut().insert(caller);
    response
}

fn prepare(house: &Arc<House>, caller: &Caller, parts: &Parts, body: Body) -> Result<Job, Refusal> {
    let (name, endpoint) = place(house, parts)?;
    check_method(parts, &endpoint)?;
    let posted = endpoint.is_post();
    let want = want(parts, endpoint)?;
    let (wrong_type, wire) = if posted {
        let pace = Pace::new(house.limits.read_idle, house.limits.min_pace);
        let wire = Wire::Stream(Box::new(BodyReader::new(body, pace)));
        (wrong_type(&parts.headers, &want), wire)
    } else {
        (None, Wire::Small(Cursor::new(Bytes::new())))
    };
    let session = match parts.extensions.get::<RequestId>() {
        Some(id) => Arc::clone(&id.0),
        None => house.next_request_id().0,
    };
    let version = parts.headers.get("git-protocol").map(HeaderValue::as_bytes);
    Ok(Job {
        house: Arc::clone(house),
        caller: caller.clone(),
        address: caller.address(),
        session,
        name,
        want,
        version: version.map(Version::from_header).unwrap_or_default(),
        wrong_type,
        body: RequestBody::new(wire, is_gzip(&parts.headers), house.limits.inflate_ratio),
        room: None,
    })
}

/// Which repository is meant, and what of it.
fn place(house: &House, parts: &Parts) -> Result<(RepoName, Endpoint), Refusal> {
    let raw = parts.uri.path();
    let not_found = |text: &str| Refusal::new(StatusCode::NOT_FOUND, text);
    if house.options.letta_memfs {
        let mut said = parts.headers.get_all("x-organization-id").into_iter();
        let organization = match (said.next().map(HeaderValue::to_str), said.next()) {
            (None, _) => None,
            (Some(Ok(text)), None) => Some(text),
            _ => return Err(Refusal::new(StatusCode::BAD_REQUEST, "one X-Organization-Id, please")),
        };
        if let Some(place) = path::parse_letta(raw, organization) {
            return place.ok_or_else(|| not_found("Not a valid memfs path"));
        }
    }
    path::parse(raw, &house.options.url_prefix).ok_or_else(|| not_found("not found"))
}

fn check_method(parts: &Parts, endpoint: &Endpoint) -> Result<(), Refusal> {
    let (right, allow) = if endpoint.is_post() {
        (parts.method == Method::POST, "POST")
    } else {
        (matches!(parts.method, Method::GET | Method::HEAD), "GET, HEAD")
    };
    if right {
        return Ok(());
    }
    // HTTP/1.0 has no 405.
    let status = match parts.version {
        HttpVersion::HTTP_09 | HttpVersion::HTTP_10 => StatusCode::BAD_REQUEST,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    Err(Refusal::new(status, format!("method not allowed; this is for {allow}"))
        .with(header::ALLOW, HeaderValue::from_static(allow)))
}

fn want(parts: &Parts, endpoint: Endpoint) -> Result<Want, Refusal> {
    let disabled = || Refusal::new(StatusCode::FORBIDDEN, "service not available");
    Ok(match endpoint {
        Endpoint::InfoRefs => match service_parameter(parts.uri.query()) {
            None => Want::InfoRefs,
            Some(name) => Want::Advertisement(Service::from_name(&name).ok_or_else(disabled)?),
        },
        Endpoint::InfoPacks => Want::InfoPacks,
        Endpoint::File(relative) | Endpoint::Loose(relative) | Endpoint::Pack(relative) => Want::File {
            relative,
            length_only: parts.method == Method::HEAD,
        },
        Endpoint::UploadPack => Want::UploadPack,
        Endpoint::ReceivePack => Want::ReceivePack,
        Endpoint::UploadArchive => return Err(disabled()),
    })
}

/// The value of the first `service` in a query. Other keys are ignored, as git does.
fn service_parameter(query: Option<&str>) -> Option<Vec<u8>> {
    query?
        .split('&')
        .filter_map(|pair| pair.split_once('=').or(Some((pair, ""))))
        .find(|(key, _)| *key == "service")
        .map(|(_, value)| path::percent_decode(value).unwrap_or_default())
}

fn wrong_type(headers: &HeaderMap, want: &Want) -> Option<Refusal> {
    let expected = match want {
        Want::ReceivePack => "application/x-git-receive-pack-request",
        _ => "application/x-git-upload-pack-request",
    };
    let sent = headers
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    (sent != expected.as_bytes()).then(|| {
        let sent = String::from_utf8_lossy(sent);
        let text = format!("expected POST with Content-Type '{expected}', but received '{sent}' instead");
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
    })
}

/// gzip under either of its names; all other encodings are left to the service, which will not understand them, as in git.
fn is_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|value| value == "gzip" || value == "x-gzip")
}

/// Whether an upload-pack request is one of protocol v2's that send no pack. Only a guess at the right lane; the service reads the request.
fn is_brief(body: &[u8]) -> bool {
    body.get(4..).is_some_and(|line| {
        [&b"command=ls-refs"[..], b"command=object-info", b"command=bundle-uri"]
            .iter()
            .any(|command| line.starts_with(command))
    })
}

fn body_refusal(failure: BodyFailure) -> Refusal {
    match failure {
        BodyFailure::TooLarge => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large"),
        BodyFailure::Malformed => Refusal::new(StatusCode::BAD_REQUEST, "the gzip body of the request is damaged"),
        BodyFailure::Silent => Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"),
        BodyFailure::Short => Refusal::new(StatusCode::BAD_REQUEST, "the request ended too early"),
    }
}

async fn run(house: &Arc<House>, mut job: Job) -> Result<Response, Refusal> {
    if job.body.announced().is_some_and(|length| length <= SMALL_BODY as u64) {
        job.body.collect(SMALL_BODY).await.map_err(body_refusal)?;
    }
    let lane = job.lane();
    if lane == Lane::Long {
        job = ask_first(house, job).await?.take_ahead().await?;
    }
    let key = (lane == Lane::Long).then(|| job.name.canonical().to_owned());
    let permit = match house.workers.admit(lane, key.as_deref()).await {
        Ok(permit) => permit,
        Err(busy) => return Err(job.turned_away(&busy)),
    };
    let span = tracing::Span::current();
    let answer = house
        .workers
        .pipe(permit, move |reply: &mut Reply<Head, Refusal>| {
            let _entered = span.enter();
            let result = job.run(reply);
            job.body.abandon(DRAIN_BYTES, DRAIN_PATIENCE);
            result
        })
        .await;
    match answer {
        Answer::Whole { head, body } => Ok(respond(head, Body::from(body))),
        Answer::Stream { head, body } => Ok(respond(head, Body::new(body))),
        Answer::Failed(refusal) => Err(refusal),
        Answer::Panicked => Err(Refusal::ours()),
    }
}

/// Asks on a short worker whether a request would be let in, before it waits for a long one: strangers take no part of those. It is asked again where it is executed;
/// this only keeps out.
async fn ask_first(house: &Arc<House>, job: Job) -> Result<Job, Refusal> {
    let permit = match house.workers.admit(Lane::Short, None).await {
        Ok(permit) => permit,
        Err(busy) => return Err(job.turned_away(&busy)),
    };
    let span = tracing::Span::current();
    let asked = house.workers.call_under(permit, move || {
        let _entered = span.enter();
        match job.admitted() {
            Ok(_) => Ok(job),
            Err(refusal) => {
                job.body.abandon(DRAIN_BYTES, DRAIN_PATIENCE);
                Err(refusal)
            }
        }
    });
    asked.await.unwrap_or_else(|_| Err(Refusal::ours()))
}

fn respond(head: Option<Head>, body: Body) -> Response {
    let mut response = Response::new(body);
    if let Some(head) = head {
        head.apply(response.headers_mut());
    }
    response
}

type GitReply = Reply<Head, Refusal>;

impl Job {
    fn lane(&self) -> Lane {
        let long = match &self.want {
            Want::Advertisement(_) | Want::InfoRefs | Want::InfoPacks => false,
            Want::File { relative, .. } => relative.starts_with("objects/pack/"),
            Want::UploadPack => !self.body.small().is_some_and(is_brief),
            Want::ReceivePack => true,
        };
        if long { Lane::Long } else { Lane::Short }
    }

    /// Takes into memory what a client should not make a worker wait for.
    async fn take_ahead(mut self) -> Result<Self, Refusal> {
        self.body.collect(SMALL_BODY).await.map_err(body_refusal)?;
        if self.want == Want::UploadPack && !self.body.is_collected() {
            let room = Arc::clone(&self.house.collecting).acquire_owned();
            match timeout(self.house.limits.queue_wait, room).await {
                Ok(Ok(room)) => self.room = Some(room),
                Ok(Err(_)) | Err(_) => {
                    let busy = self.house.workers.busy();
                    return Err(self.turned_away(&busy));
                }
            }
            self.body.collect(FETCH_BODY).await.map_err(body_refusal)?;
        }
        Ok(self)
    }

    fn turned_away(self, busy: &Busy) -> Refusal {
        tracing::warn!(repo = %self.name, scope = ?busy.scope, "no room");
        self.body.abandon(BUSY_DRAIN_BYTES, DRAIN_PATIENCE);
        Refusal::busy(busy)
    }

    /// The repository that the request is for, if the request may be executed; `None` where it would create one.
    fn admitted(&self) -> Result<Option<Arc<dyn Served>>, Refusal> {
        let found = match self.house.hands.find(&self.name) {
            Ok(found) => found,
            Err(failure) => {
                // What cannot be opened is told only to those who may know that it is there.
                self.decide(Presence::Present, Doors::default())?;
                return Err(self.refuse(&failure));
            }
        };
        self.authorise(found.as_deref())?;
        match &self.wrong_type {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(found),
        }
    }

    fn run(&mut self, reply: &mut GitReply) -> Result<(), Refusal> {
        let house = Arc::clone(&self.house);
        let found = self.admitted()?;
        let stop = reply.stop();
        let (address, session) = (self.address.clone(), Arc::clone(&self.session));
        let user = self
            .caller
            .principal
            .as_ref()
            .ok()
            .and_then(|who| who.name())
            .map(str::to_owned);
        let context = Context {
            limits: &house.limits,
            namespace: house.options.namespace.as_ref().map(|namespace| namespace.as_ref()),
            user: user.as_deref(),
            remote_addr: &address,
            session_id: &session,
            stop: &stop,
            clock: &*house.clock,
            answers: Some(&house.answers),
            worktrees: None,
        };
        match found {
            Some(repo) => self.serve(&*repo, &context, reply),
            // Asking creates nothing; pushing does.
            None if self.want == Want::Advertisement(Service::ReceivePack) => {
                if let Err(failure) = house.hands.check_free(&self.name) {
                    // Or another push has made it meanwhile.
                    return match house.hands.find(&self.name) {
                        Ok(Some(repo)) => self.serve(&*repo, &context, reply),
                        _ => Err(self.refuse(&failure)),
                    };
                }
                let blank = house.hands.blank().map_err(|failure| self.refuse(&failure))?;
                self.serve(&*blank, &context, reply)
            }
            None if self.fetches() => {
                let (repo, made) = house
                    .hands
                    .create(&self.name)
                    .map_err(|failure| self.refuse(&failure))?;
                if made {
                    tracing::info!(repo = %self.name, "created by a fetch");
                }
                self.serve(&*repo, &context, reply)
            }
            None => self.push_to_new(&context, reply),
        }
    }

    fn push_to_new(&mut self, context: &Context<'_>, reply: &mut GitReply) -> Result<(), Refusal> {
        let house = Arc::clone(&self.house);
        if self.is_probe() {
            reply.set_head(Head::uncached(RECEIVE_PACK_RESULT));
            return Ok(());
        }
        let (repo, made) = house
            .hands
            .create(&self.name)
            .map_err(|failure| self.refuse(&failure))?;
        let result = self.serve(&*repo, context, reply);
        drop(repo);
        if made {
            tracing::info!(repo = %self.name, "created by a push");
            if let Err(failure) = house.hands.settle(&self.name) {
                let error = &failure as &dyn std::error::Error;
                tracing::warn!(repo = %self.name, error, "HEAD of a new repository stays as it was made");
            }
            if let Err(failure) = house.hands.discard_if_empty(&self.name) {
                let error = &failure as &dyn std::error::Error;
                tracing::warn!(repo = %self.name, error, "a push that failed left an empty repository");
            }
        }
        result
    }

    fn fetches(&self) -> bool {
        matches!(self.want, Want::UploadPack | Want::Advertisement(Service::UploadPack))
    }

    /// The one place where a git request is allowed.
    fn authorise(&self, found: Option<&dyn Served>) -> Result<(), Refusal> {
        let house = &self.house;
        let pushes = matches!(self.want, Want::ReceivePack | Want::Advertisement(Service::ReceivePack));
        let options = &house.options;
        let makes = (pushes && options.create_on_push) || (self.fetches() && options.create_on_fetch);
        let presence = match found {
            Some(_) => Presence::Present,
            None if makes && self.name.check_creatable().is_ok() => Presence::Creatable,
            None => Presence::Absent,
        };
        let doors = match found {
            Some(repo) => repo.doors(),
            None if presence == Presence::Creatable => {
                match house.hands.blank() {
                    Ok(blank) => blank.doors(),
                    Err(failure) => {
                        // Troubles of ours are told to those who would be let in.
                        self.decide(presence, Doors::default())?;
                        return Err(self.refuse(&failure));
                    }
                }
            }
            // Nothing is asked of the disk for what is not there: it may be one that cannot be written to.
            None => Doors::default(),
        };
        self.decide(presence, doors)
    }

    fn decide(&self, presence: Presence, doors: Doors) -> Result<(), Refusal> {
        let house = &self.house;
        let who = self
            .caller
            .principal
            .as_ref()
            .map_err(|decision| Refusal::of_decision(*decision))?;
        let ask = Ask {
            repo: &self.name,
            // Whoever makes a repository by asking for it must be one who may push to it.
            route: match presence {
                Presence::Creatable => Want::ReceivePack.route(doors),
                _ => self.want.route(doors),
            },
            presence,
            local: self.caller.local,
        };
        match house.rules.decide(who, &ask) {
            Decision::Allow if presence != Presence::Absent => Ok(()),
            Decision::Allow => Err(Refusal::not_found()),
            other => {
                // Clients are told the minimum; whoever runs the house finds out here which rule it was.
                let user = who.name().unwrap_or("-");
                let local = self.caller.local;
                tracing::info!(repo = %self.name, decision = ?other, route = ?ask.route, ?presence, user, local, "not let in");
                Err(Refusal::of_decision(other))
            }
        }
    }

    fn serve(&mut self, repo: &dyn Served, context: &Context<'_>, reply: &mut GitReply) -> Result<(), Refusal> {
        let result = match self.want.clone() {
            Want::Advertisement(service) => {
                reply.set_head(Head::uncached(advertisement_type(service)));
                repo.advertise(service, self.version, context, reply)
            }
            Want::UploadPack => {
                reply.set_head(Head::uncached("application/x-git-upload-pack-result"));
                repo.upload_pack(self.version, context, &mut self.body, reply)
            }
            Want::ReceivePack => {
                reply.set_head(Head::uncached(RECEIVE_PACK_RESULT));
                repo.receive_pack(context, &mut self.body, reply)
            }
            Want::InfoRefs => {
                reply.set_head(Head::uncached("text/plain; charset=utf-8"));
                repo.info_refs(context, reply)
            }
            Want::InfoPacks => {
                reply.set_head(Head::uncached("text/plain; charset=utf-8"));
                repo.info_packs(reply)
            }
            Want::File { relative, length_only } => {
                return match repo.file(context, &relative).map_err(|failure| self.refuse(&failure))? {
                    Some(file) => self.file(&file, length_only, reply),
                    None => Err(Refusal::new(StatusCode::NOT_FOUND, "not found")),
                };
            }
        };
        self.told(result, reply)
    }

    /// A service's end. What it wrote before it failed tells the client; the log is told everything.
    fn told(&self, result: Result<(), Failure>, reply: &GitReply) -> Result<(), Refusal> {
        match result {
            Ok(()) => Ok(()),
            Err(failure) if reply.is_stopped() => {
                tracing::debug!(repo = %self.name, error = &failure as &dyn std::error::Error, "the client is gone");
                Err(Refusal::of_fault(failure.fault, failure.public))
            }
            Err(failure) => Err(self.refuse(&failure)),
        }
    }

    /// Logs a failure with its causes and gives what the client may know of it.
    fn refuse(&self, failure: &Failure) -> Refusal {
        use crate::base::Fault;
        let error = failure as &dyn std::error::Error;
        match failure.fault {
            Fault::Corrupt | Fault::Ours => tracing::error!(repo = %self.name, error, "request failed"),
            _ => tracing::info!(repo = %self.name, error, "request refused"),
        }
        match self.body.failure() {
            Some(failure) => body_refusal(failure),
            None => Refusal::of_fault(failure.fault, &failure.public),
        }
    }

    fn file(&self, file: &DumbFile, length_only: bool, reply: &mut GitReply) -> Result<(), Refusal> {
        let failed = |source: std::io::Error| {
            tracing::error!(path = %file.path.display(), error = %source, "reading a file of the dumb protocol");
            Refusal::ours()
        };
        let mut source = match File::open(&file.path) {
            Ok(source) => source,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Refusal::not_found()),
            Err(error) => return Err(failed(error)),
        };
        let metadata = source.metadata().map_err(failed)?;
        let cache = if file.cache_forever {
            Cache::Forever {
                now: self.house.clock.seconds(),
            }
        } else {
            Cache::Never
        };
        reply.set_head(Head {
            content_type: HeaderValue::from_static(file.content_type),
            cache,
            length: Some(metadata.len()),
            modified: metadata.modified().ok(),
        });
        if length_only {
            return Ok(());
        }
        let mut left = metadata.len();
        let mut buffer = vec![0; usize::try_from(left).unwrap_or(usize::MAX).clamp(1, CHUNK_BYTES)];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..most).unwrap_or_default();
            let taken = match source.read(part) {
                Ok(taken) if taken > 0 => taken,
                // The length has been announced, so less of it must not look like all of it.
                Ok(_) => {
                    reply.cut_short();
                    return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    reply.cut_short();
                    return Err(failed(error));
                }
            };
            if reply.write_all(part.get(..taken).unwrap_or_default()).is_err() {
                return Ok(());
            }
            left = left.saturating_sub(taken as u64);
        }
        Ok(())
    }

    /// git asks with a lone flush packet whether a large push would be let in, before it sends it.
    fn is_probe(&mut self) -> bool {
        matches!(self.body.small(), Some(b"0000" | b""))
    }
}

const RECEIVE_PACK_RESULT: &str = "application/x-git-receive-pack-result";

fn advertisement_type(service: Service) -> &'static str {
    match service {
        Service::UploadPack => "application/x-git-upload-pack-advertisement",
        Service::ReceivePack => "application/x-git-receive-pack-advertisement",
    }
}
