//! Submodule URLs that some client version reads as something else than a place: an option, a line break in a credential request, a URL
//! without a host (gitmodules(5), and the advisories of git 2.20.1, 2.24.1 and 2.26.2).

/// Whether git refuses a tree whose `.gitmodules` has this URL.
pub(super) fn is_disallowed(url: &[u8]) -> bool {
    if url.starts_with(b"-") {
        return true;
    }
    if is_relative(url) {
        return has_newline_when_decoded(url) || climbs_into_a_host(url);
    }
    if let Some(url) = curl_url(url) {
        return has_newline_when_decoded(url) || !is_normal(url);
    }
    url.starts_with(b"git://") && has_newline_when_decoded(url)
}

fn is_relative(url: &[u8]) -> bool {
    matches!(url, [b'.', b'/' | b'\\', ..] | [b'.', b'.', b'/' | b'\\', ..])
}

/// `../` takes a component off the superproject's URL. If `:` or `/` follows, what is left may lose its host.
fn climbs_into_a_host(url: &[u8]) -> bool {
    let mut rest = url;
    let mut climbed = false;
    loop {
        match rest {
            [b'.', b'/' | b'\\', tail @ ..] => rest = tail,
            [b'.', b'.', b'/' | b'\\', tail @ ..] => {
                rest = tail;
                climbed = true;
            }
            _ => return climbed && matches!(rest.first(), Some(b':' | b'/')),
        }
    }
}

/// What git's HTTP transport would be given, if it is the one asked: `https://…`, or what follows `https::`.
fn curl_url(url: &[u8]) -> Option<&[u8]> {
    for scheme in [&b"http"[..], b"https", b"ftp", b"ftps"] {
        if let Some(rest) = url.strip_prefix(scheme) {
            if let Some(inner) = rest.strip_prefix(b"::") {
                return Some(inner);
            }
            if rest.starts_with(b"://") {
                return Some(url);
            }
        }
    }
    None
}

/// Percent-encoding is undone byte by byte; what is no valid escape stays as it is.
fn has_newline_when_decoded(url: &[u8]) -> bool {
    url.contains(&b'\n') || url.windows(3).any(|escape| matches!(escape, [b'%', b'0', b'a' | b'A']))
}

/// Whether the URL has the parts that RFC 3986 demands of one with an authority: scheme, host, port, a path that does not climb above its
/// root, and no broken escapes.
fn is_normal(url: &[u8]) -> bool {
    let scheme = url
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        .count();
    let (scheme, rest) = url.split_at(scheme);
    let Some(rest) = rest.strip_prefix(b"://") else {
        return false;
    };
    if !scheme.first().is_some_and(u8::is_ascii_alphabetic) || !has_whole_escapes(rest) {
        return false;
    }
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let host = match authority.iter().position(|&byte| byte == b'@') {
        Some(at) => authority.get(at + 1..).unwrap_or_default(),
        None => authority,
    };
    is_host_and_port(host, scheme.eq_ignore_ascii_case(b"file")) && stays_below_root(rest)
}

fn has_whole_escapes(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        match rest.get(at + 1..at + 3) {
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => rest = rest.get(at + 3..).unwrap_or_default(),
            _ => return false,
        }
    }
    true
}

fn is_host_and_port(host: &[u8], may_be_empty: bool) -> bool {
    if host.is_empty() {
        return may_be_empty;
    }
    // A colon inside brackets belongs to an IPv6 address.
    let (host, port) = match host.iter().rposition(|&byte| byte == b':' || byte == b']') {
        Some(at) if host.get(at) == Some(&b':') => (
            host.get(..at).unwrap_or_default(),
            host.get(at + 1..).unwrap_or_default(),
        ),
        _ => (host, &[][..]),
    };
    !host.is_empty()
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
        && is_port(port)
}

fn is_port(port: &[u8]) -> bool {
    if port.is_empty() {
        return true;
    }
    let number = port.iter().try_fold(0u32, |sum, &digit| {
        digit
            .is_ascii_digit()
            .then(|| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    });
    matches!(number, Some(1..=65_535))
}

fn stays_below_root(rest: &[u8]) -> bool {
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'?' | b'#'))
        .unwrap_or(rest.len());
    let path = rest.get(..end).unwrap_or_default();
    let Some(path) = path.strip_prefix(b"/") else {
        return true;
    };
    let mut depth = 0usize;
    for part in path.split(|&byte| byte == b'/') {
        match dots(part) {
            Some(1) => {}
            Some(2) => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

/// How many dots a path component is made of, if of nothing else; a dot may be written `%2e`.
fn dots(part: &[u8]) -> Option<usize> {
    let mut rest = part;
    let mut count = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', tail @ ..] | [b'%', b'2', b'e' | b'E', tail @ ..] => tail,
            _ => return None,
        };
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::is_disallowed;

    // What git 2.47.3 index-pack --fsck-objects said of each.
    #[test]
    fn urls_are_judged_as_git_judges_them() {
        for url in [
            "-x",
            "--upload-pack=x",
            "../:foo",
            "..//x",
            "https://x\nfoo",
            "https://x/%0ahost=y",
            "https://x%0ay",
            "https:///path",
            "http://",
            "http://%0d",
            "https://:80/x",
            "https://@/x",
            "https://user@/x",
            "https://x:foo/y",
            "https://x%zz/",
            "git://x%0ay",
            "./%0a",
            "../%0a",
            "ftp://x%0a",
            "ftps:///x",
            "https::x",
            "http::%0a",
            "https::http:///x",
            "http:::/x",
            "../../..//x",
            "..//https:///x",
            "https://x%00y",
            "https://x y",
            "https://x/%",
            "../..\\:x",
            "../../\n",
            "./../:y",
            "../:",
            "..//",
            "https://x#%0a",
            "https::../x%0a",
            "https:////x",
            "https::",
            "https://x/../y",
            "https://x/..",
            "https://x/a/../..",
            "https://x/a/../../b",
            "https://x/./..",
            "https://x/%2e%2e/",
            "https://x:0/",
            "https://x:65536/",
            "https://x: 1/",
            "https://x\u{e9}/",
            "https://x<y/",
            "https://x~y",
            "https://x*y/",
            "https://[::1]:x/",
            "https://a@b@c/",
            "https://a:b@:80/",
            "https://%41/",
            "https://u%0a@h/",
            "https://?x",
            "https://h?%0a",
            "https://h/x%0A",
            "ftp::https://h/%0a",
            "http::file://h/%0a",
            "http::a",
            "http::1a://b",
            "http::a_b://b",
            "http::://b",
            "git://h/%zz%0a",
            "git://x\ny",
            "./a\nb",
            "..\\:x",
            "..\\%0a",
            ".\\..\\:x",
            ".././.././/x",
            "https:://x",
            "https://h:8 0/",
            "https://h//../..",
            "http::https://",
            "http::file:/x",
            "http::file:///../x",
            "http::foo:///x",
            "http::foo://h:x/",
            "../%00%0a",
            "..\\/x",
            "https://h:000/",
            "http::file://:80/x",
            "https://h/..?x",
        ] {
            assert!(is_disallowed(url.as_bytes()), "{url:?}");
        }
        for url in [
            "https://x",
            "./-x",
            "../-x",
            "./x",
            "..",
            "../../x",
            "../../../../x:y",
            "../../https://a",
            "ssh://-x",
            "git@host:-x",
            "https:x",
            "https:/x/y",
            "https://x:/y",
            "ssh://x%0ay",
            "file:///%0a",
            "ext::sh -c x",
            "https::https://x",
            "x::https://%0a",
            "../../foo:bar",
            "./:x",
            "../.:x",
            ":x",
            "host:%0a",
            "",
            "https://[::1]/",
            "https://[::1",
            "HTTPS:///x",
            "../\t",
            ".\n",
            "https://-x/",
            "https://a_b/",
            "https://x/a/%2e%2e",
            "https://x?../..",
            "https://x:65535/",
            "https://x:00080/",
            "https://x/\u{e9}",
            "https://x/a b",
            "https://x/<",
            "https://[x]y/",
            "https://x]/",
            "https://[::1]x/",
            "https://a:b@c/",
            "https://u b@h/",
            "https://h/%250a",
            "http::ssh://h/",
            "http::file:///x",
            "http::a+b-c.d://b/",
            "git://",
            "git:///x",
            "git://h/%",
            "git::git://x%0a",
            "GIT://x%0a",
            "ssh://x\ny",
            "x\ny",
            "a%0ab",
            "../%2fx",
            "../%",
            "...//x",
            ".//x",
            "../x//y",
            "http+unix://%0a",
            "http://h/%00",
            "https://h:80:90/",
            "https://:@h/",
            "https://h/.../",
            "https://h/x/..",
            "https://h:?",
            "https://h:80#x",
            "https://h/a//../..//../b",
            "https://h//..",
            "https://h/.",
            "http::file://",
            "../\\x",
            "http::file://u@/x",
        ] {
            assert!(!is_disallowed(url.as_bytes()), "{url:?}");
        }
    }
}
