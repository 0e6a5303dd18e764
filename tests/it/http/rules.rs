//! Who gets in: 401, 403, 404, and what a push may make.

use gitstead::base::{Access, Grant, Pattern, TokenHash, TokenRule};

use super::support::*;

fn token(id: &str, text: &str, pattern: &str, access: Access) -> TokenRule {
    TokenRule {
        id: id.into(),
        hash: TokenHash::of(text),
        grants: vec![Grant {
            pattern: Pattern::parse(pattern).unwrap(),
            access,
        }],
    }
}

fn guarded() -> Face {
    Face::with(|setup| {
        setup.rules.tokens = vec![
            token("writer", "gst_w", "a", Access::Write),
            token("reader", "gst_r", "**", Access::Read),
        ];
        setup.repos.push(("open", Fake::default().push(Some(true))));
        setup.repos.push(("never", Fake::default().push(Some(false))));
    })
}

fn status(face: &Face, target: &str, headers: &str) -> u16 {
    let method = if target.contains("/git-") { "POST" } else { "GET" };
    let service = target.rsplit('/').next().unwrap_or_default();
    face.send(format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-{service}-request\r\nContent-Length: 0\r\n{headers}\r\n"
    ))
    .status
}

#[test]
fn tokens_open_what_they_are_for() {
    let face = guarded();
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    // `user:gst_w`
    let basic = "Authorization: Basic dXNlcjpnc3Rfdw==\r\n".to_owned();
    let (read, write) = ("/repos/a/git-upload-pack", "/repos/a/git-receive-pack");
    for (target, headers, expected) in [
        (read, String::new(), 401),
        (write, String::new(), 401),
        ("/repos/nothere/git-upload-pack", String::new(), 401),
        (read, bearer("gst_w"), 200),
        (write, bearer("gst_w"), 200),
        (write, basic, 200),
        (read, bearer("gst_r"), 200),
        (write, bearer("gst_r"), 403),
        ("/repos/nothere/git-upload-pack", bearer("gst_r"), 404),
        ("/repos/open/git-upload-pack", bearer("gst_w"), 404),
        (read, bearer("gst_wrong"), 401),
        (read, "Authorization: Basic !!!\r\n".into(), 401),
        (read, format!("{}{}", bearer("gst_w"), bearer("gst_w")), 401),
        ("/repos/open/git-receive-pack", bearer("gst_r"), 200),
        ("/repos/never/git-receive-pack", bearer("gst_r"), 403),
    ] {
        assert_eq!(status(&face, target, &headers), expected, "{target} with {headers:?}");
        let info = target.replace("/git-", "/info/refs?service=git-");
        assert_eq!(status(&face, &info, &headers), expected, "{info} with {headers:?}");
    }
}

#[test]
fn who_must_name_themselves_is_told_how() {
    let response = guarded().get("/repos/a/info/refs?service=git-upload-pack");
    assert_eq!(response.status, 401);
    assert_eq!(
        response.all("www-authenticate"),
        ["Basic realm=\"gitstead\"", "Bearer realm=\"gitstead\""]
    );
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn the_token_names_the_user() {
    let response = guarded().post("/repos/a/git-receive-pack", "Authorization: Bearer gst_w\r\n", b"0000");
    assert!(
        response.text().starts_with("user=writer addr=127.0.0.1 "),
        "{}",
        response.text()
    );
}

#[test]
fn the_proxys_word_counts_where_it_was_said_to() {
    let header = "X-Remote-User: ada\r\n";
    let open = Face::start();
    let response = open.post("/repos/a/git-receive-pack", header, b"0000");
    assert!(response.text().starts_with("user=- "), "{}", response.text());
    let trusting = Face::with(|setup| {
        setup.rules.trusted_header = true;
        setup.options.trusted_user_header = Some("x-remote-user".parse().unwrap());
    });
    let response = trusting.post("/repos/a/git-receive-pack", header, b"0000");
    assert!(response.text().starts_with("user=ada "), "{}", response.text());
    assert_eq!(status(&trusting, "/repos/a/git-receive-pack", ""), 401);
    assert_eq!(
        status(&trusting, "/repos/a/git-receive-pack", &format!("{header}{header}")),
        401
    );
}

#[test]
fn a_browser_or_a_proxy_on_this_machine_is_not_this_machine() {
    let face = Face::start();
    let target = "/repos/a/info/refs?service=git-receive-pack";
    assert_eq!(face.get(target).status, 200);
    for headers in [
        "Host: localhost\r\nOrigin: https://evil.example\r\n",
        "Host: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n",
        "Host: localhost\r\nX-Forwarded-Proto: https\r\n",
        "Host: localhost\r\nX-Forwarded-Host: git.example\r\n",
        "Host: localhost\r\nForwarded: for=192.0.2.1\r\n",
        "Host: localhost\r\nX-Real-IP: 192.0.2.1\r\n",
        "Host: localhost\r\nVia: 1.1 proxy\r\n",
        "Host: localhost\r\nCF-Connecting-IP: 192.0.2.1\r\n",
        "Host: localhost\r\nTrue-Client-IP: 192.0.2.1\r\n",
        "Host: rebound.example:8080\r\n",
        "Host: localhost\r\nHost: localhost\r\n",
    ] {
        let response = face.send(format!("GET {target} HTTP/1.1\r\n{headers}\r\n"));
        assert_eq!(response.status, 403, "{headers:?}");
    }
    // What nginx sends for anybody, with `proxy_pass http://127.0.0.1:8080;` and nothing else.
    let response = face.send(format!(
        "GET {target} HTTP/1.0\r\nHost: 127.0.0.1:8080\r\nConnection: close\r\n\r\n"
    ));
    assert_eq!(response.status, 403);
    let response = face.send(format!(
        "GET http://rebound.example{target} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ));
    assert_eq!(response.status, 403);
}

#[test]
fn a_push_creates_and_nothing_else_does() {
    let face = Face::start();
    let created = || face.hands.created.lock().unwrap().clone();
    assert_eq!(face.get("/repos/new/info/refs?service=git-upload-pack").status, 404);
    let response = face.get("/repos/team/new/info/refs?service=git-receive-pack");
    assert_eq!(response.text(), "advertisement ReceivePack V0");
    // The question before a large push.
    let response = face.post("/repos/team/new/git-receive-pack", "", b"0000");
    assert_eq!((response.status, response.body.len()), (200, 0));
    assert_eq!(
        response.header("content-type"),
        Some("application/x-git-receive-pack-result")
    );
    assert_eq!(face.post("/repos/new/git-upload-pack", "", b"0000").status, 404);
    assert_eq!(created(), Vec::<String>::new());
    assert_eq!(
        face.post("/repos/team/new/git-receive-pack", "", b"commands").status,
        200
    );
    assert_eq!(created(), ["team/new"]);
    assert_eq!(*face.hands.discarded.lock().unwrap(), ["team/new"]);
    for bad in ["/repos/-x", "/repos/a%20b", "/repos/x.lock"] {
        let target = format!("{bad}/git-receive-pack");
        assert_eq!(face.post(&target, "", b"commands").status, 404, "{bad}");
    }
    assert_eq!(created().len(), 1);
}

#[test]
fn creation_can_be_switched_off() {
    let face = Face::with(|setup| setup.options.create_on_push = false);
    assert_eq!(face.get("/repos/new/info/refs?service=git-receive-pack").status, 404);
    assert_eq!(face.post("/repos/new/git-receive-pack", "", b"commands").status, 404);
    assert!(face.hands.created.lock().unwrap().is_empty());
}
