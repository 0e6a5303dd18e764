//! Each request gets a name, a span and one line in the log when its last byte has been taken.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tracing::Instrument as _;

use super::{
    house::{Caller, House, Peer},
    reply::printable,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the log says of a client that left before there was a status; nginx's number for it.
const GONE: u16 = 499;

pub(super) async fn observe(State(house): State<Arc<House>>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = house.next_request_id();
    let span = tracing::info_span!("request", id = &*id.0);
    let peer = request
        .extensions()
        .get::<Peer>()
        .map(|peer| peer.0.ip().to_canonical());
    let mut line = Line {
        span: span.clone(),
        start,
        method: request.method().clone(),
        // The path only: a query may hold what somebody mistook for a good place for a secret.
        path: printable(request.uri().path()),
        peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
        user: None,
        status: GONE,
        sent: 0,
        ended: false,
    };
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).instrument(span).await;
    line.status = response.status().as_u16();
    line.user = response
        .extensions_mut()
        .remove::<Caller>()
        .and_then(|caller| caller.principal.ok())
        .and_then(|principal| principal.name().map(printable));
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.map(|body| {
        line.ended = body.is_end_stream();
        Body::new(Observed { body, line })
    })
}

/// The access log's line; written when dropped, so that a client that leaves is logged too.
struct Line {
    span: tracing::Span,
    start: Instant,
    method: Method,
    path: String,
    peer: String,
    user: Option<String>,
    status: u16,
    sent: u64,
    ended: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        tracing::info!(
            target: "gitstead::access",
            method = %self.method,
            path = %self.path,
            status = self.status,
            bytes = self.sent,
            ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            peer = %self.peer,
            user = self.user.as_deref().unwrap_or("-"),
            whole = self.ended,
        );
    }
}

/// A response body that counts.
struct Observed {
    body: Body,
    line: Line,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.line.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.line.ended = self.body.is_end_stream();
            }
            Poll::Ready(None) => self.line.ended = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
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
