//! The control API over the wire.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use gitstead::base::TokenHash;
use serde_json::{Value, json};

use crate::support::{Git, Server, ServerOptions};

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// One request on a connection of its own. `headers` may replace `Host`.
fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
    let mut stream = TcpStream::connect(server.address()).expect("the server listens");
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        text.push_str(&format!("Host: {}\r\n", server.address()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        let body = body.to_string();
        if !headers.iter().any(|(name, _)| *name == "Content-Type") {
            text.push_str("Content-Type: application/json\r\n");
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    } else {
        text.push_str("\r\n");
    }
    stream.write_all(text.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn names(server: &Server, headers: &[(&str, &str)]) -> Vec<String> {
    let answer = ask(server, "GET", "/api/v1/repos", headers, None);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let list = answer.json();
    list["repositories"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| item["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn a_repository_lives_its_life() {
    let server = Server::start();
    let git = Git::new();
    let made = ask(
        &server,
        "POST",
        "/api/v1/repos",
        &[],
        Some(&json!({ "name": "team/app", "description": "words" })),
    );
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.header("location"), Some("/api/v1/repos/team/app"));
    assert_eq!(made.header("content-type"), Some("application/json"));
    assert_eq!(
        made.json(),
        json!({
            "name": "team/app", "object_format": "sha1", "head": "refs/heads/main", "head_id": null, "bare": true, "description": "words"
        })
    );
    let dir = server.repos().join("team/app.git");
    git.fsck(&dir);

    let work = git.init("work");
    let id = git.commit(&work, "a", "a", "first");
    git.ok(&work, &format!("push -q {} main:topic", dir.display()));
    let changed = ask(
        &server,
        "PATCH",
        "/api/v1/repos/team/app.git",
        &[],
        Some(&json!({ "head": "topic", "name": "app" })),
    );
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(changed.json()["name"], "app");
    assert_eq!(changed.json()["head"], "refs/heads/topic");
    assert_eq!(changed.json()["head_id"], id);
    assert_eq!(ask(&server, "GET", "/api/v1/repos/team/app", &[], None).status, 404);
    assert_eq!(
        ask(&server, "GET", "/api/v1/repos/app", &[], None).json(),
        changed.json()
    );
    assert_eq!(names(&server, &[]), ["app"]);

    let gone = ask(&server, "DELETE", "/api/v1/repos/app", &[], None);
    assert_eq!((gone.status, gone.body.as_str()), (204, ""));
    assert!(names(&server, &[]).is_empty());
    // Nothing but the nameless one that a first push is shown.
    let left = std::fs::read_dir(server.repos()).unwrap().flatten();
    assert!(
        left.map(|entry| entry.file_name())
            .all(|name| name.to_string_lossy().starts_with(".gitstead-"))
    );
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let server = Server::start();
    let post = |body: Value| ask(&server, "POST", "/api/v1/repos", &[], Some(&body));
    assert_eq!(post(json!({ "name": "a" })).status, 201);
    for (body, status, code) in [
        (json!({ "name": "a" }), 409, "exists"),
        (json!({ "name": "a/b" }), 409, "conflict"),
        (json!({ "name": "../b" }), 400, "bad_name"),
        (json!({ "name": ".b" }), 400, "bad_name"),
        (json!({ "name": "b", "default_branch": "x y" }), 400, "bad_branch"),
        (json!({ "name": "b", "object_format": "md5" }), 400, "bad_request"),
        (json!({ "name": "b", "unknown": 1 }), 400, "bad_request"),
        (json!({}), 400, "bad_request"),
        (json!(["a"]), 400, "bad_request"),
        (
            json!({ "name": "b", "description": "x".repeat(70_000) }),
            413,
            "too_large",
        ),
    ] {
        let answer = post(body.clone());
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{body:.60}: {}",
            answer.body
        );
    }
    for (method, path, body, status, code) in [
        ("GET", "/api/v1/repos/none", None, 404, "not_found"),
        ("GET", "/api/v1/repos/a/../b", None, 400, "bad_name"),
        ("GET", "/api/v1/repos/a%2f..%2fb", None, 400, "bad_name"),
        ("GET", "/api/v1/repos/%ff", None, 400, "bad_name"),
        ("DELETE", "/api/v1/repos/none", None, 404, "not_found"),
        (
            "PATCH",
            "/api/v1/repos/none",
            Some(json!({ "head": "x" })),
            404,
            "not_found",
        ),
        ("PATCH", "/api/v1/repos/a", Some(json!({})), 400, "bad_request"),
        (
            "PATCH",
            "/api/v1/repos/a",
            Some(json!({ "head": "-x" })),
            400,
            "bad_branch",
        ),
        ("PUT", "/api/v1/repos/a", None, 405, "method_not_allowed"),
        ("DELETE", "/api/v1/repos", None, 405, "method_not_allowed"),
        ("GET", "/api/v1/nothing", None, 404, "not_found"),
        ("GET", "/api/v1/repos?limit=x", None, 400, "bad_request"),
    ] {
        let answer = ask(&server, method, path, &[], body.as_ref());
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{method} {path}: {}",
            answer.body
        );
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}");
    }
    assert_eq!(names(&server, &[]), ["a"]);
}

#[test]
fn long_lists_come_in_pages() {
    let server = Server::start();
    for name in ["a", "b", "c", "d", "e"] {
        ask(&server, "POST", "/api/v1/repos", &[], Some(&json!({ "name": name })));
    }
    let mut path = "/api/v1/repos?limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let list = ask(&server, "GET", &path, &[], None).json();
        let page = list["repositories"].as_array().unwrap().clone();
        seen.extend(page.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match list["next"].as_str() {
            Some(next) => path = format!("/api/v1/repos?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
}

#[test]
fn web_pages_in_the_operators_browser_are_kept_out() {
    let server = Server::start();
    let body = json!({ "name": "evil" });
    let own = format!("http://{}", server.address());
    for headers in [
        &[("Origin", "http://evil.example")][..],
        &[("Origin", "null")],
        &[("Host", "evil.example")],
        &[("Host", "evil.example:8080"), ("Origin", "http://evil.example:8080")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("X-Forwarded-For", "192.0.2.1")],
    ] {
        let post = ask(&server, "POST", "/api/v1/repos", headers, Some(&body));
        assert_eq!(post.status, 403, "{headers:?}: {}", post.body);
        assert_eq!(post.header("access-control-allow-origin"), None);
    }
    for host in ["evil.example", "evil.example:80"] {
        assert_eq!(
            ask(&server, "GET", "/api/v1/repos", &[("Host", host)], None).status,
            403,
            "{host}"
        );
    }
    // A form can only send these types.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ] {
        let post = ask(&server, "POST", "/api/v1/repos", &[("Content-Type", kind)], Some(&body));
        assert_eq!(
            (post.status, post.code().as_str()),
            (415, "unsupported_media_type"),
            "{kind}"
        );
    }
    let preflight = ask(
        &server,
        "OPTIONS",
        "/api/v1/repos",
        &[("Origin", "http://evil.example")],
        None,
    );
    assert_eq!(preflight.status, 405);
    assert!(names(&server, &[]).is_empty());
    assert_eq!(
        ask(&server, "POST", "/api/v1/repos", &[("Origin", &own)], Some(&body)).status,
        201
    );
}

fn with_tokens(more: &str) -> Server {
    let token = |name: &str, repos: &str, access: &str| {
        let hash = TokenHash::of(name);
        format!("[[tokens]]\nname = \"{name}\"\nhash = \"{hash}\"\nrepos = [\"{repos}\"]\naccess = \"{access}\"\n")
    };
    let config = [
        more.to_owned(),
        token("owner", "**", "write"),
        token("team", "team/*", "write"),
        token("reader", "team/*", "read"),
    ];
    Server::with(ServerOptions {
        config: Some(config.join("\n")),
        ..ServerOptions::default()
    })
}

#[test]
fn no_spelling_opens_what_the_pattern_does_not_name() {
    let entry = |name: &str, repos: &str| {
        let hash = TokenHash::of(name);
        format!("[[tokens]]\nname = \"{name}\"\nhash = \"{hash}\"\nrepos = [\"{repos}\"]\naccess = \"write\"\n")
    };
    let server = Server::with(ServerOptions {
        config: Some(entry("owner", "**") + &entry("other", "app.*")),
        ..ServerOptions::default()
    });
    let owner = [("Authorization", "Bearer owner")];
    let other = [("Authorization", "Bearer other")];
    let made = ask(
        &server,
        "POST",
        "/api/v1/repos",
        &owner,
        Some(&json!({ "name": "app" })),
    );
    assert_eq!(made.status, 201);
    for spelling in [
        "app",
        "app.git",
        "app.git.git",
        "app.git.git.git",
        "app/.git",
        "app.git/.git",
        "app.git.git/.git",
    ] {
        let path = format!("/api/v1/repos/{spelling}");
        let head = json!({ "head": "stolen" });
        for (method, body) in [("GET", None), ("PATCH", Some(&head)), ("DELETE", None)] {
            let answer = ask(&server, method, &path, &other, body);
            assert!(
                matches!(answer.status, 400 | 404),
                "{method} {spelling}: {}",
                answer.status
            );
        }
        for service in ["upload", "receive"] {
            let path = format!("/repos/{spelling}/info/refs?service=git-{service}-pack");
            assert_eq!(ask(&server, "GET", &path, &other, None).status, 404, "{path}");
        }
    }
    let still = ask(&server, "GET", "/api/v1/repos/app", &owner, None);
    assert_eq!(
        (still.status, still.json()["head"].as_str()),
        (200, Some("refs/heads/main"))
    );
}

#[test]
fn tokens_administer_what_their_patterns_name() {
    let server = with_tokens("");
    let bearer = |name: &str| format!("Bearer {name}");
    let (owner, team, reader) = (bearer("owner"), bearer("team"), bearer("reader"));
    let create = |token: &str, name: &str| {
        ask(
            &server,
            "POST",
            "/api/v1/repos",
            &[("Authorization", token)],
            Some(&json!({ "name": name })),
        )
        .status
    };
    assert_eq!(create(&owner, "private"), 201);
    assert_eq!(create(&team, "team/app"), 201);
    assert_eq!(create(&team, "elsewhere"), 404);
    assert_eq!(create(&reader, "team/other"), 403);
    assert_eq!(create("Bearer wrong", "x"), 401);
    assert_eq!(create("Nonsense", "x"), 401);
    assert_eq!(names(&server, &[("Authorization", &owner)]), ["private", "team/app"]);
    assert_eq!(names(&server, &[("Authorization", &team)]), ["team/app"]);
    assert_eq!(names(&server, &[("Authorization", &reader)]), ["team/app"]);
    // Loopback means nothing here.
    let nobody = ask(&server, "GET", "/api/v1/repos", &[], None);
    assert_eq!(nobody.status, 401);
    assert!(
        nobody
            .header("www-authenticate")
            .is_some_and(|value| value.starts_with("Basic "))
    );
    for path in ["/api/v1/repos/private", "/api/v1/repos/none"] {
        assert_eq!(ask(&server, "GET", path, &[], None).status, 401);
        assert_eq!(ask(&server, "GET", path, &[("Authorization", &team)], None).status, 404);
        assert_eq!(
            ask(&server, "DELETE", path, &[("Authorization", &team)], None).status,
            404
        );
    }
    // Renaming needs both names.
    let rename = |token: &str, new: &str| {
        let body = json!({ "name": new });
        ask(
            &server,
            "PATCH",
            "/api/v1/repos/team/app",
            &[("Authorization", token)],
            Some(&body),
        )
        .status
    };
    assert_eq!(rename(&team, "stolen"), 404);
    assert_eq!(rename(&reader, "team/b"), 403);
    assert_eq!(rename(&team, "team/b"), 200);
    assert_eq!(names(&server, &[("Authorization", &owner)]), ["private", "team/b"]);
    // A token by Basic: as the password, or as the user.
    for pair in ["anyone:owner", "owner:"] {
        let basic = format!("Basic {}", base64(pair));
        assert_eq!(
            ask(
                &server,
                "GET",
                "/api/v1/repos/private",
                &[("Authorization", &basic)],
                None
            )
            .status,
            200,
            "{pair}"
        );
    }
}

fn base64(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in text.as_bytes().chunks(3) {
        let bits = group
            .iter()
            .enumerate()
            .fold(0u32, |bits, (i, b)| bits | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            out.push(if i <= group.len() {
                char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize])
            } else {
                '='
            });
        }
    }
    out
}

#[test]
fn anonymous_reading_does_not_administer() {
    let server = with_tokens("anonymous_read = true\n");
    ask(
        &server,
        "POST",
        "/api/v1/repos",
        &[("Authorization", "Bearer owner")],
        Some(&json!({ "name": "a" })),
    );
    assert_eq!(names(&server, &[]), ["a"]);
    assert_eq!(ask(&server, "GET", "/api/v1/repos/a", &[], None).status, 200);
    assert_eq!(ask(&server, "DELETE", "/api/v1/repos/a", &[], None).status, 401);
    assert_eq!(
        ask(&server, "POST", "/api/v1/repos", &[], Some(&json!({ "name": "b" }))).status,
        401
    );
    assert_eq!(
        ask(
            &server,
            "GET",
            "/api/v1/repos/a",
            &[("Authorization", "Bearer wrong")],
            None
        )
        .status,
        401
    );
}

#[test]
fn the_proxys_users_are_believed_from_loopback() {
    let server = Server::with(ServerOptions {
        args: vec!["--trusted-user-header".into(), "X-Remote-User".into()],
        ..ServerOptions::default()
    });
    let ada = [
        ("X-Remote-User", "ada"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Host", "git.example.org"),
    ];
    assert_eq!(
        ask(&server, "POST", "/api/v1/repos", &ada, Some(&json!({ "name": "a" }))).status,
        201
    );
    assert_eq!(names(&server, &ada), ["a"]);
    assert_eq!(ask(&server, "GET", "/api/v1/repos", &[], None).status, 401);
    let two = [("X-Remote-User", "ada"), ("X-Remote-User", "root")];
    assert_eq!(ask(&server, "GET", "/api/v1/repos", &two, None).status, 401);
}
