//! A token in a cookie: for a page of this server's own that is shown behind a login of somebody else's. Off unless it is configured, and never on git's paths.
//!
//! A browser sends a cookie with whatever any page has it ask for. So what changes something has to say that it comes from a page of ours: by `Sec-Fetch-Site`, which no
//! page can set, or where a browser does not send that, by `Origin`, which no page can set either.

use axum::http::{HeaderMap, Method, Uri, header};

use crate::base::Credential;

/// The token in the cookie of that name. Two of that name are none that could be believed.
pub(super) fn token(headers: &HeaderMap, name: &str) -> Credential {
    let mut found = Credential::None;
    for line in headers.get_all(header::COOKIE) {
        let Ok(line) = line.to_str() else {
            return Credential::Unusable;
        };
        for pair in line.split(';') {
            let Some((key, value)) = pair.trim().split_once('=') else {
                continue;
            };
            if key != name {
                continue;
            }
            let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let value = bare.unwrap_or(value);
            if found != Credential::None || value.is_empty() {
                return Credential::Unusable;
            }
            found = Credential::Token(value.to_owned());
        }
    }
    found
}

/// Whether a request may be believed to be what its user wants: it changes nothing, or a page of this very origin makes it.
pub(super) fn is_wanted(method: &Method, headers: &HeaderMap, uri: &Uri) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return true;
    }
    let single = |name: &str| {
        let mut all = headers.get_all(name).into_iter();
        let first = all.next()?;
        match all.next() {
            None => first.to_str().ok(),
            Some(_) => Some(""),
        }
    };
    if let Some(site) = single("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    let host = uri
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| single("host"));
    let origin = single("origin").and_then(|origin| origin.split_once("://"));
    match (origin, host) {
        (Some((_, from)), Some(host)) => !host.is_empty() && from.eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                name.parse::<HeaderName>().expect("a name"),
                HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
            );
        }
        headers
    }

    #[test]
    fn a_cookie_is_found_by_its_name_alone() {
        let token_of = |lines: &[&str]| {
            let pairs: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
            token(&headers(&pairs), "sid")
        };
        let is = |text: &str| Credential::Token(text.to_owned());
        assert_eq!(token_of(&["sid=abc"]), is("abc"));
        assert_eq!(token_of(&["a=b; sid=\"abc\"; c=d"]), is("abc"));
        assert_eq!(token_of(&["a=b", "sid=a=b"]), is("a=b"));
        for lines in [&["asid=abc"][..], &["SID=abc"], &["a=sid=abc"], &["sid"], &[]] {
            assert_eq!(token_of(lines), Credential::None, "{lines:?}");
        }
        for lines in [&["sid=a; sid=b"][..], &["sid=a", "sid=a"], &["sid="], &["sid=\u{e4}"]] {
            assert_eq!(token_of(lines), Credential::Unusable, "{lines:?}");
        }
    }

    #[test]
    fn what_changes_something_comes_from_a_page_of_ours() {
        let uri: Uri = "/api/v1/agents".parse().expect("a path");
        let wanted = |method: Method, pairs: &[(&str, &str)]| {
            let mut all = vec![("host", "git.example:8080")];
            all.extend_from_slice(pairs);
            is_wanted(&method, &headers(&all), &uri)
        };
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(wanted(method, &[("sec-fetch-site", "cross-site")]));
        }
        for (pairs, expected) in [
            (&[][..], false),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (
                &[("sec-fetch-site", "cross-site"), ("origin", "http://git.example:8080")],
                false,
            ),
            (
                &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")],
                false,
            ),
            (&[("origin", "http://git.example:8080")], true),
            (&[("origin", "https://GIT.example:8080")], true),
            (&[("origin", "http://git.example")], false),
            (&[("origin", "http://evil.example")], false),
            (&[("origin", "null")], false),
            (
                &[("origin", "http://git.example:8080"), ("origin", "http://evil.example")],
                false,
            ),
        ] {
            for method in [Method::POST, Method::DELETE, Method::PATCH, Method::PUT] {
                assert_eq!(wanted(method.clone(), pairs), expected, "{method} {pairs:?}");
            }
        }
    }
}
