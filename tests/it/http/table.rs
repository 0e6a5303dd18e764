//! Which request gets which status, type and headers (PROTOCOL: git-http-backend's rules).

use std::{io::Write, time::Duration};

use super::support::*;

const HEX: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn every_request_has_its_status_and_type() {
    let face = Face::start();
    let table = [
        (
            "GET",
            "/repos/a/info/refs?service=git-upload-pack",
            200,
            "application/x-git-upload-pack-advertisement",
        ),
        (
            "GET",
            "/repos/a/info/refs?service=git-receive-pack",
            200,
            "application/x-git-receive-pack-advertisement",
        ),
        (
            "GET",
            "/repos/a.git/info/refs?x=y&service=git-upload-pack",
            200,
            "application/x-git-upload-pack-advertisement",
        ),
        ("GET", "/repos/a/info/refs", 200, "text/plain; charset=utf-8"),
        (
            "GET",
            "/repos/a/info/refs?service=git-upload-archive",
            403,
            "text/plain; charset=utf-8",
        ),
        ("GET", "/repos/a/info/refs?service=", 403, "text/plain; charset=utf-8"),
        (
            "GET",
            "/repos/a/info/refs?service=upload-pack",
            403,
            "text/plain; charset=utf-8",
        ),
        ("GET", "/repos/a/objects/info/packs", 200, "text/plain; charset=utf-8"),
        ("GET", "/repos/a/HEAD", 404, "text/plain; charset=utf-8"),
        (
            "GET",
            "/repos/a/objects/info/alternates",
            404,
            "text/plain; charset=utf-8",
        ),
        (
            "GET",
            "/repos/nothere/info/refs?service=git-upload-pack",
            404,
            "text/plain; charset=utf-8",
        ),
        ("GET", "/repos/a/git-upload-pack", 405, "text/plain; charset=utf-8"),
        (
            "GET",
            "/repos/nothere/git-receive-pack",
            405,
            "text/plain; charset=utf-8",
        ),
        ("PUT", "/repos/a/info/refs", 405, "text/plain; charset=utf-8"),
        ("POST", "/repos/a/info/refs", 405, "text/plain; charset=utf-8"),
        ("OPTIONS", "/repos/a/HEAD", 405, "text/plain; charset=utf-8"),
        ("POST", "/repos/a/git-upload-archive", 403, "text/plain; charset=utf-8"),
        ("POST", "/repos/a/git-upload-pack", 415, "text/plain; charset=utf-8"),
        (
            "POST",
            "/repos/nothere/git-upload-pack",
            404,
            "text/plain; charset=utf-8",
        ),
        ("GET", "/repos/a", 404, "text/plain; charset=utf-8"),
        ("GET", "/", 404, "text/plain; charset=utf-8"),
        ("DELETE", "/nowhere", 404, "text/plain; charset=utf-8"),
        ("GET", "/healthz", 200, "text/plain; charset=utf-8"),
        ("GET", "/readyz", 200, "text/plain; charset=utf-8"),
    ];
    for (method, target, status, content_type) in table {
        let response = face.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(response.status, status, "{method} {target}: {}", response.text());
        assert_eq!(response.header("content-type"), Some(content_type), "{method} {target}");
        if target.starts_with("/repos/") {
            assert_eq!(response.header("pragma"), Some("no-cache"), "{method} {target}");
            assert_eq!(response.header("expires"), Some("Fri, 01 Jan 1980 00:00:00 GMT"));
            assert_eq!(
                response.header("cache-control"),
                Some("no-cache, max-age=0, must-revalidate")
            );
        }
        if status == 405 {
            let allow = if target.contains("/git-") { "POST" } else { "GET, HEAD" };
            assert_eq!(response.header("allow"), Some(allow), "{method} {target}");
        }
        if status >= 400 {
            assert!(
                response.text().ends_with('\n') && response.body.len() < 200,
                "{:?}",
                response.text()
            );
        }
        assert!(response.header("x-request-id").is_some());
    }
}

#[test]
fn small_answers_carry_their_length() {
    let face = Face::start();
    for response in [
        face.get("/repos/a/info/refs?service=git-upload-pack"),
        face.post("/repos/a/git-upload-pack", "", b"0000"),
    ] {
        assert_eq!(response.status, 200);
        assert_eq!(
            response.header("content-length"),
            Some(response.body.len().to_string().as_str())
        );
        assert_eq!(response.header("transfer-encoding"), None);
    }
}

#[test]
fn the_protocol_version_is_read_from_its_header() {
    let face = Face::start();
    for (value, version) in [("version=2", "V2"), ("version=1:x", "V1"), ("x", "V0")] {
        let response = face.send(format!(
            "GET /repos/a/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: h\r\nGit-Protocol: {value}\r\n\r\n"
        ));
        assert_eq!(response.text(), format!("advertisement UploadPack {version}"));
    }
}

#[test]
fn the_wrong_type_is_told_which_would_be_right() {
    let face = Face::start();
    let response = face.send(
        "POST /repos/a/git-receive-pack HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/\tevil\r\nContent-Length: 4\r\n\r\n0000",
    );
    assert_eq!(response.status, 415);
    let text = response.text();
    assert!(text.contains("'application/x-git-receive-pack-request'"), "{text:?}");
    assert!(text.contains("'text/?evil'"), "{text:?}");
}

#[test]
fn head_is_get_without_a_body() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("HEAD");
    std::fs::write(&file, "ref: refs/heads/main\n").unwrap();
    let face = Face::with(|setup| setup.repos = vec![("a", Fake::default().file("HEAD", file, false))]);
    let mut client = face.connect();
    for (target, status, length) in [
        ("/repos/a/HEAD", 200, Some("21")),
        ("/repos/a/info/refs", 200, Some("5")),
        ("/repos/b/HEAD", 404, None),
        ("/healthz", 200, Some("3")),
    ] {
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let response = client.head_response();
        assert_eq!(response.status, status, "{target}");
        if length.is_some() {
            assert_eq!(response.header("content-length"), length, "{target}");
        }
    }
    // Nothing was left on the connection by any of them.
    client.send("GET /repos/a/HEAD HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.response().text(), "ref: refs/heads/main\n");
}

#[test]
fn files_of_the_dumb_protocol_have_dates_and_lengths() {
    let dir = tempfile::tempdir().unwrap();
    let (pack, head) = (dir.path().join("pack"), dir.path().join("HEAD"));
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 253) as u8).collect();
    std::fs::write(&pack, &content).unwrap();
    let mut file = std::fs::File::create(&head).unwrap();
    file.write_all(b"x").unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
    file.set_modified(time).unwrap();
    let relative = format!("objects/pack/pack-{HEX}.pack");
    let gone = format!("objects/pack/pack-{HEX}.idx");
    let fake = Fake::default()
        .file(&relative, pack, true)
        .file(&gone, dir.path().join("gone"), true)
        .file("HEAD", head, false);
    let face = Face::with(|setup| setup.repos = vec![("a", fake)]);
    let response = face.get(&format!("/repos/a/{relative}"));
    assert_eq!((response.status, response.body.len()), (200, 300_000));
    assert_eq!(response.body, content);
    assert_eq!(response.header("content-length"), Some("300000"));
    assert_eq!(response.header("cache-control"), Some("public, max-age=31536000"));
    assert_eq!(response.all("date").len(), 1);
    assert!(response.header("expires").is_some() && response.header("last-modified").is_some());
    let response = face.get("/repos/a/HEAD");
    assert_eq!(response.header("last-modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(response.header("pragma"), Some("no-cache"));
    assert_eq!(face.get(&format!("/repos/a/{gone}")).status, 404);
}

#[test]
fn what_a_repository_switches_off_is_forbidden() {
    let mut closed = Fake::default().push(Some(false));
    closed.doors.upload_pack = false;
    closed.doors.any_file = false;
    let face = Face::with(|setup| setup.repos = vec![("a", closed)]);
    for target in [
        "/repos/a/info/refs?service=git-upload-pack",
        "/repos/a/info/refs?service=git-receive-pack",
        "/repos/a/info/refs",
        "/repos/a/objects/info/packs",
        "/repos/a/HEAD",
    ] {
        assert_eq!(face.get(target).status, 403, "{target}");
    }
    assert_eq!(face.post("/repos/a/git-upload-pack", "", b"0000").status, 403);
    assert_eq!(face.post("/repos/a/git-receive-pack", "", b"0000").status, 403);
}

#[test]
fn http_1_0_gets_a_body_that_ends_with_the_connection() {
    let face = Face::with(|setup| {
        let big = Fake::new(|_, _, out| out.write_all(&vec![b'x'; 1 << 20]).map_err(failure));
        setup.repos = vec![("a", Fake::default()), ("big", big)];
        // Not for being on this machine: so speak the proxies.
        setup.rules.anonymous_read = true;
    });
    let mut client = face.connect();
    client.send("GET /repos/a/info/refs?service=git-upload-pack HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.header("transfer-encoding")), (200, None));
    assert!(client.is_closed());
    let response = face.send(
        "POST /repos/big/git-upload-pack HTTP/1.0\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: 4\r\n\r\n0000",
    );
    assert_eq!((response.status, response.header("transfer-encoding")), (200, None));
    assert_eq!(response.body.len(), 1 << 20);
    // There is no 405 in HTTP/1.0.
    let response = face.send("GET /repos/a/git-upload-pack HTTP/1.0\r\n\r\n");
    assert_eq!((response.status, response.header("allow")), (400, Some("POST")));
}

#[test]
fn http_2_is_understood_from_its_first_byte() {
    let face = Face::start();
    let mut client = face.connect();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
        bytes.extend_from_slice(payload);
        bytes
    };
    let path = b"/repos/a/info/refs?service=git-receive-pack";
    // GET and http from the static table, path and authority as literals.
    let mut headers = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    headers.extend_from_slice(path);
    headers.extend_from_slice(b"\x01\x09localhost");
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(4, 0, 0, &[]));
    request.extend(frame(1, 0x5, 1, &headers));
    client.send(request);
    let (mut status, mut body) = (0, Vec::new());
    let stream = client.raw();
    loop {
        use std::io::Read;
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).unwrap();
        match (head[3], head[8]) {
            (1, 1) => status = payload[0],
            (0, 1) => body.extend(payload),
            _ => {}
        }
        if head[8] == 1 && head[4] & 1 == 1 {
            break;
        }
    }
    assert_eq!(status, 0x88, "200 from the static table");
    assert_eq!(String::from_utf8_lossy(&body), "advertisement ReceivePack V0");
}
