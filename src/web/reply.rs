//! How answers leave the house: one table from faults to statuses, and the headers of PROTOCOL (git-http-backend's).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    base::{Decision, Fault},
    worker::Busy,
};

/// A refusal: a status and a short text, which git shows as `remote: …` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    text: String,
    extra: Vec<(header::HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal in our own words. `text` is shown to people; control characters in it are made harmless.
    pub fn new(status: StatusCode, text: impl AsRef<str>) -> Self {
        Refusal {
            status,
            text: printable(text.as_ref()),
            extra: Vec::new(),
        }
    }

    /// The status for a fault, before the first byte of a body.
    pub fn of_fault(fault: Fault, text: impl AsRef<str>) -> Self {
        let status = match fault {
            Fault::Client => StatusCode::BAD_REQUEST,
            Fault::NotFound => StatusCode::NOT_FOUND,
            Fault::Denied => StatusCode::FORBIDDEN,
            Fault::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Corrupt | Fault::Ours => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let refusal = Refusal::new(status, text);
        match fault {
            Fault::Busy => refusal.with(header::RETRY_AFTER, HeaderValue::from_static("1")),
            _ => refusal,
        }
    }

    /// What a decision that is not [`Decision::Allow`] looks like.
    pub fn of_decision(decision: Decision) -> Self {
        match decision {
            Decision::NeedUser => Refusal::new(StatusCode::UNAUTHORIZED, "authentication required")
                .with(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"gitstead\""),
                )
                .with(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Bearer realm=\"gitstead\""),
                ),
            Decision::Forbidden => Refusal::new(StatusCode::FORBIDDEN, "not allowed"),
            Decision::NotFound | Decision::Allow => Refusal::not_found(),
        }
    }

    /// 404.
    pub fn not_found() -> Self {
        Refusal::new(StatusCode::NOT_FOUND, "repository not found")
    }

    /// 500 without a reason; the reason is in the log.
    pub fn ours() -> Self {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal server error")
    }

    /// 503 for a full house, 429 for a busy repository, both with `Retry-After`.
    pub fn busy(busy: &Busy) -> Self {
        let status = match busy.scope {
            crate::worker::BusyScope::House => StatusCode::SERVICE_UNAVAILABLE,
            crate::worker::BusyScope::Key => StatusCode::TOO_MANY_REQUESTS,
        };
        Refusal::new(status, busy.to_string()).with(
            header::RETRY_AFTER,
            HeaderValue::from(busy.retry_after.as_secs().max(1)),
        )
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.extra.push((name, value));
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The text, without a line feed at its end.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(format!("{}\n", self.text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        no_cache(headers);
        for (name, value) in self.extra {
            headers.append(name, value);
        }
        response
    }
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        Refusal::busy(&busy)
    }
}

/// What goes before the bytes of a git answer.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) content_type: HeaderValue,
    pub(super) cache: Cache,
    /// Bytes of the body, where they are known before they are sent.
    pub(super) length: Option<u64>,
    pub(super) modified: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    Never,
    /// The file's name says what is in it. Seconds since the epoch, now.
    Forever {
        now: i64,
    },
}

impl Head {
    pub(super) fn uncached(content_type: &'static str) -> Self {
        Head {
            content_type: HeaderValue::from_static(content_type),
            cache: Cache::Never,
            length: None,
            modified: None,
        }
    }

    pub(super) fn apply(self, headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_TYPE, self.content_type);
        match self.cache {
            Cache::Never => no_cache(headers),
            Cache::Forever { now } => {
                const YEAR: i64 = 31_536_000;
                insert(headers, header::DATE, &http_date(now));
                insert(headers, header::EXPIRES, &http_date(now.saturating_add(YEAR)));
                headers.insert(
                    header::CACHE_CONTROL,
                    HeaderValue::from_static("public, max-age=31536000"),
                );
            }
        }
        if let Some(length) = self.length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        if let Some(modified) = self.modified {
            let since = modified.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            insert(
                headers,
                header::LAST_MODIFIED,
                &http_date(i64::try_from(since.as_secs()).unwrap_or(0)),
            );
        }
    }
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// git-http-backend's three headers against caches old and new.
pub(super) fn no_cache(headers: &mut HeaderMap) {
    headers.insert(
        header::EXPIRES,
        HeaderValue::from_static("Fri, 01 Jan 1980 00:00:00 GMT"),
    );
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0, must-revalidate"),
    );
}

/// A client's text fit for a terminal and for one line of a log: no control characters, no more than a few hundred of the others.
pub(super) fn printable(text: &str) -> String {
    const MOST: usize = 400;
    text.chars()
        .take(MOST)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Seconds since the epoch as HTTP writes dates (RFC 9110 §5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn http_date(seconds: i64) -> String {
    // Four digits of year are all the format has.
    let seconds = seconds.clamp(0, 253_402_300_799).unsigned_abs();
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_http_does() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 GMT"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (-5, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(seconds), text);
        }
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n\u{9b}c"), "a?[2Jb???c");
        assert!(printable(&"x".repeat(10_000)).len() <= 400);
    }

    #[test]
    fn every_fault_has_a_status() {
        for (fault, status) in [
            (Fault::Client, 400),
            (Fault::NotFound, 404),
            (Fault::Denied, 403),
            (Fault::Busy, 503),
            (Fault::Corrupt, 500),
            (Fault::Ours, 500),
        ] {
            assert_eq!(Refusal::of_fault(fault, "x").status().as_u16(), status, "{fault:?}");
        }
    }
}
