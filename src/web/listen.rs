//! The accept loop: so many connections, none of them idle for ever, and an orderly end.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use super::{
    house::Peer,
    turn::{Streams, Turn},
};
use crate::{base::Limits, worker::Pace};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Drain {
    /// Connections that came to their own end after the shutdown began.
    pub finished: usize,
    /// Connections that were cut when the time was over. Their jobs have been told to stop.
    pub cut: usize,
}

/// Serves connections until `shutdown` is done, then lets running requests finish within `limits.drain`.
///
/// HTTP/1.0, HTTP/1.1 and HTTP/2 with prior knowledge. A connection without a request is closed after `limits.header_timeout`, and one whose client
/// takes nothing after `limits.write_idle`. Beyond `limits.connections` new ones wait in the system's backlog.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    shutdown: impl Future<Output = ()>,
) -> Drain {
    let house = Arc::new(Connections {
        builder: builder(limits),
        router,
        idle: limits.header_timeout,
        write_idle: limits.write_idle,
        pace: pace(limits),
        closing: CancellationToken::new(),
        cutting: CancellationToken::new(),
        cut: AtomicUsize::new(0),
    });
    let permits = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    let tasks = TaskTracker::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return std::future::pending().await;
            };
            let (stream, peer) = accept(&listener).await;
            (permit, stream, peer)
        };
        let (permit, stream, peer) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        let house = Arc::clone(&house);
        tasks.spawn(async move {
            house.connection(stream, peer).await;
            drop(permit);
        });
    }
    drop(listener);
    let open = tasks.len();
    tasks.close();
    house.closing.cancel();
    if timeout(limits.drain, tasks.wait()).await.is_err() {
        house.cutting.cancel();
        tasks.wait().await;
    }
    let cut = house.cut.load(Ordering::Relaxed);
    Drain {
        finished: open.saturating_sub(cut),
        cut,
    }
}

/// How long a client may leave what is there for it.
fn pace(limits: &Limits) -> Pace {
    Pace::new(limits.write_idle, limits.min_pace)
}

fn builder(limits: &Limits) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams { pace: pace(limits) });
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(256 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(512 << 10)
        .initial_connection_window_size(1 << 20)
        .max_concurrent_streams(16)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.header_timeout);
    builder
}

/// The next connection. Errors of accept are those of connections that are already gone, or of a house out of descriptors; both pass.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    const MOMENT: Duration = Duration::from_millis(100);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                return (stream, peer);
            }
            Err(error) if is_of_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "accepting connections");
                sleep(MOMENT).await;
            }
        }
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

struct Connections {
    builder: auto::Builder<Streams>,
    router: Router,
    idle: Duration,
    write_idle: Duration,
    pace: Pace,
    closing: CancellationToken,
    cutting: CancellationToken,
    cut: AtomicUsize,
}

impl Connections {
    async fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        let activity = Arc::new(Activity::new(self.pace.clone()));
        let stream = Watched {
            stream,
            activity: Arc::clone(&activity),
        };
        let (router, of_requests) = (self.router.clone(), Arc::clone(&activity));
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut router = router.clone();
            let active = of_requests.begin();
            async move {
                let mut request: Request = request.map(Body::new);
                request.extensions_mut().insert(Peer(peer));
                // A router is always ready, and never fails.
                let response = router.call(request).await?;
                let turn = Turn::of_stream().unwrap_or_else(|| Arc::clone(&active.0.turn));
                turn.given(0);
                Ok::<_, Infallible>(response.map(|body| Tracked {
                    body,
                    turn,
                    _active: active,
                }))
            }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let mut closing = false;
        loop {
            let next = activity.deadline(self.idle, self.write_idle);
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%peer, error = %error, "connection ended");
                    }
                    return;
                }
                () = sleep_until(next) => {
                    if activity.deadline(self.idle, self.write_idle) <= Instant::now() {
                        tracing::debug!(%peer, "connection closed: nothing moves");
                        return;
                    }
                }
                () = self.closing.cancelled(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.cutting.cancelled() => {
                    self.cut.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%peer, "connection cut: the time to finish is over");
                    return;
                }
            }
        }
    }
}

/// What goes on on one connection, as seen from outside.
struct Activity {
    state: Mutex<ActivityState>,
    /// Of the one response that is under way in HTTP/1. Those of HTTP/2 have their own.
    turn: Arc<Turn>,
}

struct ActivityState {
    /// Requests whose response has not been handed over whole.
    active: usize,
    /// When there last was a request, or progress in writing.
    moved: Instant,
    /// When a request last ended.
    ended: Instant,
    /// Whether bytes wait for the client to take them.
    blocked: bool,
}

impl Activity {
    fn new(pace: Pace) -> Self {
        let now = Instant::now();
        Activity {
            state: Mutex::new(ActivityState {
                active: 0,
                moved: now,
                ended: now,
                blocked: false,
            }),
            turn: Arc::new(Turn::new(pace)),
        }
    }

    fn begin(self: &Arc<Self>) -> Active {
        self.lock().active += 1;
        Active(Arc::clone(self))
    }

    /// When the connection is to be closed if nothing happens.
    fn deadline(&self, idle: Duration, write_idle: Duration) -> Instant {
        let state = self.lock();
        if state.blocked {
            state.moved + write_idle
        } else if state.active == 0 {
            // Pings and what else moves without a request do not count for ever.
            (state.moved + idle).min(state.ended + idle.max(write_idle))
        } else {
            // The request's own deadlines count; look again later.
            let later = Instant::now() + idle.max(Duration::from_secs(1));
            self.turn.deadline().map_or(later, |deadline| deadline.min(later))
        }
    }

    fn wrote(&self, progress: bool) {
        let mut state = self.lock();
        if progress {
            state.moved = Instant::now();
            state.blocked = false;
        } else if !state.blocked {
            state.moved = Instant::now();
            state.blocked = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, ActivityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered.
struct Active(Arc<Activity>);

impl Drop for Active {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.active = state.active.saturating_sub(1);
        state.moved = Instant::now();
        state.ended = state.moved;
    }
}

/// A response body that keeps its request active.
struct Tracked {
    body: Body,
    turn: Arc<Turn>,
    _active: Active,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.turn.asked();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.turn.given(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.turn.asked();
    }
}

/// A socket that tells whether its writes get anywhere.
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    fn note(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.wrote(polled.is_ready());
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
