use std::{
    convert::Infallible,
    path::Path,
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
    session::{Entry, LogLine, LogPage, LogRing, Stream, spooled_from, spooled_tail},
    web::api::{Answer, Api, ApiError, json},
};

/// Lines or events in one answer.
const PAGE: usize = 1_000;
/// Bytes of output in one answer.
const PIECE: usize = 1 << 20;
/// Lines of a log that are remembered.
const MOST_LINES: usize = 5_000;
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
    let wanted = asked.lines.unwrap_or(LINES).min(MOST_LINES);
    let log = Arc::clone(entry.log());
    let after = last_event_id(&headers)?.or(asked.after);
    let first = match after {
        Some(after) => log.after(after, wanted),
        None => log.last(wanted),
    };
    if !asked.follow {
        if log.is_empty() && after.is_none_or(|after| after == 0) {
            return earlier(&api, &entry, wanted).await;
        }
        let lines: Vec<_> = first.lines.iter().map(line).collect();
        return Ok(json(
            StatusCode::OK,
            &value!({ "lines": lines, "missed": first.missed, "restarted": first.restarted, "cursor": first.cursor }),
        ));
    }
    let (agents, closed) = (doors(&api)?.agents.clone(), doors(&api)?.closed.clone());
    let (send, body) = channel();
    tokio::spawn(async move {
        let mut bell = log.follow();
        let mut page = first;
        loop {
            if page.missed > 0 || page.restarted {
                agents.count_missed(page.missed);
                let text = value!({ "lines": page.missed, "restarted": page.restarted }).to_string();
                if send.send(told(None::<u64>, "missed", text)).await.is_err() {
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
                        let _ = send.send(told(None::<u64>, "end", "{}")).await;
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
                let found = spooled_tail(&dir, stream, wanted, TAIL).map_err(|error| unread(&dir, &error))?;
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
pub(super) struct OutputAsked {
    /// Whose bytes.
    #[serde(default)]
    stream: WhichStream,
    /// The position of the first one.
    #[serde(default)]
    offset: u64,
    /// How many at most.
    limit: Option<usize>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum WhichStream {
    #[default]
    Stdout,
    Stderr,
}

/// What an agent has written, byte for byte but for secrets, from a position on: events tell positions. `Gitstead-Offset` is that of the first byte, later than asked for where that is not
/// kept any more, and `Gitstead-End` the one behind the last byte there is.
pub(super) async fn output(
    State(api): State<Arc<Api>>,
    who: Who,
    at: At,
    asked: Result<Query<OutputAsked>, QueryRejection>,
) -> Answer {
    let Query(asked) = asked?;
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    let most = asked.limit.unwrap_or(PIECE).min(PIECE);
    let stream = match asked.stream {
        WhichStream::Stdout => Stream::Stdout,
        WhichStream::Stderr => Stream::Stderr,
    };
    let dir = entry.logs().clone();
    let piece = api
        .work(move |_| spooled_from(&dir, stream, asked.offset, most).map_err(|error| unread(&dir, &error)))
        .await?;
    let mut response = (StatusCode::OK, piece.bytes).into_response();
    let headers = response.headers_mut();
    headers.insert("gitstead-offset", HeaderValue::from(piece.begins));
    headers.insert("gitstead-end", HeaderValue::from(piece.end));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn unread(dir: &Path, error: &std::io::Error) -> ApiError {
    tracing::error!(path = %dir.display(), %error, "the output of an agent cannot be read");
    let text = "internal error; the log says why";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsAsked {
    after: Option<u64>,
    limit: Option<usize>,
    /// Whether the stream has lines of output between the events.
    #[serde(default)]
    output: bool,
    /// Whether the stream ends when the agent has.
    #[serde(default)]
    until_ended: bool,
}

/// How far somebody is who is told of events and, where wanted, of lines of output: `EVENT` or `EVENT.LINE`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    event: u64,
    line: Option<u64>,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let (event, line) = match text.split_once('.') {
            Some((event, line)) => (event, Some(line.parse().ok()?)),
            None => (text, None),
        };
        let event = event.parse().ok()?;
        Some(Cursor { event, line })
    }

    fn id(self) -> String {
        match self.line {
            Some(line) => format!("{}.{line}", self.event),
            None => self.event.to_string(),
        }
    }
}

/// What happens with an agent: a page of events, or to those who accept `text/event-stream` all of them as they come, from the one after `Last-Event-ID` on; with `output` also what it
/// writes.
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
    let told_before = match headers.get("last-event-id") {
        None => None,
        Some(text) => {
            let cursor = text.to_str().ok().and_then(|text| Cursor::parse(text.trim()));
            Some(cursor.ok_or_else(|| ApiError::bad_request("Last-Event-ID is a number, or two with a dot between"))?)
        }
    };
    let mut cursor = told_before.unwrap_or(Cursor {
        event: asked.after.unwrap_or(0),
        line: None,
    });
    let most = asked.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let agents = doors(&api)?.agents.clone();
    if !follows {
        let page = agents.events_after(&entry, cursor.event, most).await?;
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
    let log = asked.output.then(|| Arc::clone(entry.log()));
    if log.is_some() {
        // Whoever has seen no line yet is told of all that are remembered.
        cursor.line.get_or_insert(0);
    } else {
        cursor.line = None;
    }
    let (send, body) = channel();
    tokio::spawn(async move {
        let mut bell = entry.events().follow();
        let mut lines_bell = log.as_ref().map(|log| log.follow());
        loop {
            bell.borrow_and_update();
            if let Some(bell) = &mut lines_bell {
                bell.borrow_and_update();
            }
            let over = entry.state().is_over();
            let Ok(page) = agents.events_after(&entry, cursor.event, PAGE).await else {
                return;
            };
            for (seq, event) in &page.events {
                cursor.event = *seq;
                if send.send(event_of(cursor.id(), event)).await.is_err() {
                    return;
                }
            }
            cursor.event = page.cursor;
            let lines = match &log {
                Some(log) => lines_after(log, &mut cursor, &send).await,
                None => Some(0),
            };
            match lines {
                None => return,
                Some(0) if page.events.is_empty() => {}
                Some(_) => continue,
            }
            if over && asked.until_ended {
                return;
            }
            let until = asked.until_ended.then_some(&*entry);
            let goes_on = match &mut lines_bell {
                None => more(&mut bell, &send, &closed, until).await,
                Some(lines) => tokio::select! {
                    goes_on = more(&mut bell, &send, &closed, until) => goes_on,
                    changed = lines.changed() => changed.is_ok(),
                },
            };
            if !goes_on {
                return;
            }
        }
    });
    Ok(events_response(body))
}

/// Tells of the next lines. Says how many; `None` when nobody listens any more.
async fn lines_after(log: &LogRing, cursor: &mut Cursor, send: &mpsc::Sender<Event>) -> Option<usize> {
    let page: LogPage = log.after(cursor.line.unwrap_or(0), PAGE);
    if page.missed > 0 || page.restarted {
        let text = value!({ "type": "output_missed", "lines": page.missed, "restarted": page.restarted });
        send.send(told(None::<u64>, "output_missed", text.to_string()))
            .await
            .ok()?;
    }
    for found in &page.lines {
        cursor.line = Some(found.seq);
        let mut text = line(found);
        text["type"] = "output".into();
        send.send(told(Some(cursor.id()), "output", text.to_string()))
            .await
            .ok()?;
    }
    cursor.line = Some(page.cursor);
    Some(page.lines.len())
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
pub(super) fn event_of(id: impl ToString, event: &str) -> Event {
    let kind = serde_json::from_str::<Value>(event)
        .ok()
        .and_then(|event| event["type"].as_str().map(str::to_owned));
    told(Some(id), kind.as_deref().unwrap_or("event"), event)
}

/// Whether somebody wants to be told of things as they come.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/event-stream"))
}

/// One event of a stream. JSON has no line ends of its own.
pub(super) fn told(id: Option<impl ToString>, kind: &str, data: impl AsRef<str>) -> Event {
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
