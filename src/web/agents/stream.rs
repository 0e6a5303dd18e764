use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::Deserialize;
use serde_json::{Value, json as value};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{At, Deed, Who, doors, entry};
use crate::{
    session::{Entry, LogLine, Stream, spooled_tail},
    web::api::{Answer, Api, ApiError, json},
};

/// Lines or events in one answer.
const PAGE: usize = 1_000;
/// Lines of a log when nobody says how many.
const LINES: usize = 200;
/// Events that wait for a client who follows. What comes then stays where it is until there is room.
const WAITING: usize = 64;
/// How often a client who follows hears something.
const ALIVE: Duration = Duration::from_secs(15);
/// Bytes of the end of a file that are looked through for lines.
const TAIL: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsAsked {
    /// Lines after this number.
    after: Option<u64>,
    /// Without `after`: so many of the last ones.
    lines: Option<usize>,
    /// Whether more is sent as it comes.
    #[serde(default)]
    follow: bool,
}

fn line(line: &LogLine) -> Value {
    value!({
        "seq": line.seq,
        "at_ms": u64::try_from(line.at.as_millis()).unwrap_or(u64::MAX),
        "stream": line.stream,
        "text": String::from_utf8_lossy(&line.text),
        "dropped": line.dropped,
    })
}

/// The lines of an agent: a page of them, or with `follow` as events, each with its number, and `missed` where a client was too slow.
pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    who: Who,
    at: At,
    headers: HeaderMap,
    asked: Result<Query<LogsAsked>, QueryRejection>,
) -> Answer {
    let Query(asked) = asked?;
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    let wanted = asked.lines.unwrap_or(LINES).min(PAGE);
    let log = Arc::clone(entry.log());
    let after = last_event_id(&headers)?.or(asked.after);
    let first = match after {
        Some(after) => log.after(after, wanted),
        None => log.last(wanted),
    };
    if !asked.follow {
        if first.lines.is_empty() && first.cursor == 0 {
            return earlier(&api, &entry, wanted).await;
        }
        let lines: Vec<_> = first.lines.iter().map(line).collect();
        return Ok(json(
            StatusCode::OK,
            &value!({ "lines": lines, "missed": first.missed, "cursor": first.cursor }),
        ));
    }
    let (agents, closed) = (doors(&api)?.agents.clone(), doors(&api)?.closed.clone());
    let (send, body) = channel();
    tokio::spawn(async move {
        let mut bell = log.follow();
        let mut page = first;
        loop {
            if page.missed > 0 {
                agents.count_missed(page.missed);
                let text = value!({ "lines": page.missed }).to_string();
                if send.send(told(None, "missed", text)).await.is_err() {
                    return;
                }
            }
            for found in &page.lines {
                let text = line(found).to_string();
                if send.send(told(Some(found.seq), "line", text)).await.is_err() {
                    return;
                }
            }
            let cursor = page.cursor;
            bell.borrow_and_update();
            page = log.after(cursor, PAGE);
            if page.lines.is_empty() && page.missed == 0 {
                if entry.state().is_over() {
                    // There may be more by now.
                    page = log.after(cursor, PAGE);
                    if page.lines.is_empty() {
                        let _ = send.send(told(None, "end", "{}")).await;
                        return;
                    }
                    continue;
                }
                if !more(&mut bell, &send, &closed, Some(&entry)).await {
                    return;
                }
                page = log.after(cursor, PAGE);
            }
        }
    });
    Ok(events_response(body))
}

/// The lines of an agent that has written nothing since this server was started.
async fn earlier(api: &Arc<Api>, entry: &Entry, wanted: usize) -> Answer {
    let dir = entry.logs().clone();
    let lines = api
        .work(move |_| {
            let mut all = Vec::new();
            for stream in [Stream::Stdout, Stream::Stderr] {
                let found = spooled_tail(&dir, stream, wanted, TAIL).map_err(|error| {
                    tracing::error!(path = %dir.display(), %error, "the output of an agent cannot be read");
                    ApiError::new(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "internal",
                        "internal error; the log says why",
                    )
                })?;
                all.extend(found.into_iter().map(|text| {
                    value!({ "seq": null, "at_ms": null, "stream": stream, "text": String::from_utf8_lossy(&text), "dropped": 0 })
                }));
            }
            Ok(all)
        })
        .await?;
    Ok(json(
        StatusCode::OK,
        &value!({ "lines": lines, "missed": 0, "cursor": 0 }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsAsked {
    after: Option<u64>,
    limit: Option<usize>,
    /// Whether the stream ends when the agent has.
    #[serde(default)]
    until_ended: bool,
}

/// What happens with an agent: a page of events, or to those who accept `text/event-stream` all of them as they come, from the one after `Last-Event-ID` on.
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    who: Who,
    at: At,
    headers: HeaderMap,
    asked: Result<Query<EventsAsked>, QueryRejection>,
) -> Answer {
    let Query(asked) = asked?;
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    let follows = wants_stream(&headers);
    let after = last_event_id(&headers)?.or(asked.after).unwrap_or(0);
    let most = asked.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let agents = doors(&api)?.agents.clone();
    if !follows {
        let page = agents.events_after(&entry, after, most).await?;
        let mut text = String::from("{\"events\":[");
        for (n, (_, event)) in page.events.iter().enumerate() {
            if n > 0 {
                text.push(',');
            }
            text.push_str(event);
        }
        text.push_str(&format!("],\"cursor\":{}}}\n", page.cursor));
        let mut response = (StatusCode::OK, text).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(response);
    }
    let closed = doors(&api)?.closed.clone();
    let (send, body) = channel();
    tokio::spawn(async move {
        let mut bell = entry.events().follow();
        let mut cursor = after;
        loop {
            bell.borrow_and_update();
            let over = entry.state().is_over();
            let Ok(page) = agents.events_after(&entry, cursor, PAGE).await else {
                return;
            };
            for (seq, event) in &page.events {
                if send.send(event_of(*seq, event)).await.is_err() {
                    return;
                }
            }
            cursor = page.cursor;
            if !page.events.is_empty() {
                continue;
            }
            if over && asked.until_ended {
                return;
            }
            if !more(&mut bell, &send, &closed, asked.until_ended.then_some(&*entry)).await {
                return;
            }
        }
    });
    Ok(events_response(body))
}

/// Waits until there is more. Says whether to go on.
async fn more(
    bell: &mut watch::Receiver<u64>,
    send: &mpsc::Sender<Event>,
    closed: &CancellationToken,
    until: Option<&Entry>,
) -> bool {
    let over = async {
        match until {
            Some(entry) => {
                let far = tokio::time::Instant::now() + Duration::from_secs(86_400);
                entry.wait(far, |status| status.state.is_over()).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        changed = bell.changed() => changed.is_ok(),
        () = over => true,
        () = send.closed() => false,
        () = closed.cancelled() => false,
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(text) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let number = text.to_str().ok().and_then(|text| text.trim().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| ApiError::bad_request("Last-Event-ID is a number"))
}

/// An event of an agent's, in a stream.
pub(super) fn event_of(seq: u64, event: &str) -> Event {
    let kind = serde_json::from_str::<Value>(event)
        .ok()
        .and_then(|event| event["type"].as_str().map(str::to_owned));
    told(Some(seq), kind.as_deref().unwrap_or("event"), event)
}

/// Whether somebody wants to be told of things as they come.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"))
}

/// One event of a stream. JSON has no line ends of its own.
pub(super) fn told(id: Option<u64>, kind: &str, data: impl AsRef<str>) -> Event {
    let event = match id {
        Some(id) => Event::default().id(id.to_string()),
        None => Event::default(),
    };
    event.event(kind).data(data)
}

pub(super) fn events_response(events: Follow) -> Response {
    let alive = KeepAlive::new().interval(ALIVE).text("alive");
    let mut response = Sse::new(events).keep_alive(alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Events that somebody says while they are read.
pub(super) struct Follow(mpsc::Receiver<Event>);

pub(super) fn channel() -> (mpsc::Sender<Event>, Follow) {
    let (send, receive) = mpsc::channel(WAITING);
    (send, Follow(receive))
}

impl futures_core::Stream for Follow {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|event| event.map(Ok))
    }
}
