//! Requests that nobody honest sends.

use std::{
    io::{Read, Write},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};

use super::support::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn no_path_leads_outside_and_none_reaches_the_disk() {
    let face = Face::start();
    for target in [
        "/repos/../etc/HEAD",
        "/repos/a/../../HEAD",
        "/repos/..%2f..%2fetc/HEAD",
        "/repos/%2e%2e/%2e%2e/etc/HEAD",
        "/repos/%2E%2E%2Fetc/HEAD",
        "/repos/.%2e/a/HEAD",
        "/repos/./a/HEAD",
        "/repos//a/HEAD",
        "/repos/a//HEAD",
        "/repos/a%00/HEAD",
        "/repos/a%00.git/HEAD",
        "/repos/a%5c..%5cb/HEAD",
        "/repos/..\\..\\etc/HEAD",
        "/repos/a%0d%0aX:y/HEAD",
        "/repos/a%/HEAD",
        "/repos/a%c0%ae%c0%ae/HEAD",
        "/repos/a%ff/HEAD",
        "/repos/a/HEAD/",
        "/repos/a/objects/pack/../../config",
        "/repos/a/config",
        "/repos/a/hooks/post-receive",
        "/repos/info/refs",
        "/repos/HEAD",
        "/REPOS/a/HEAD",
    ] {
        let response = face.get(target);
        assert_eq!(response.status, 404, "{target}");
    }
    assert_eq!(*face.hands.asked.lock().unwrap(), Vec::<String>::new());
    // Decoded once and no more: an odd name, but a name.
    assert_eq!(face.get("/repos/%252e%252e/info/refs").status, 404);
    assert_eq!(*face.hands.asked.lock().unwrap(), ["%2e%2e"]);
}

#[test]
fn two_lengths_are_one_too_many() {
    let face = Face::start();
    let head =
        "POST /repos/a/git-upload-pack HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-git-upload-pack-request\r\n";
    for lengths in [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4, 5\r\n",
        "Content-Length: -4\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        " folded: line\r\n",
        "Na\0me: x\r\n",
    ] {
        let mut client = face.connect();
        client.send(format!(
            "{head}{lengths}\r\n0000GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        let response = client.try_response();
        assert!(
            response.as_ref().is_none_or(|response| response.status == 400),
            "{lengths:?}: {response:?}"
        );
        assert!(client.is_closed(), "{lengths:?}");
    }
    assert!(face.hands.asked.lock().unwrap().is_empty());
}

#[test]
fn a_length_beside_chunks_smuggles_nothing() {
    let face = Face::start();
    for both in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
    ] {
        let mut client = face.connect();
        client.send(format!(
            "POST /repos/a/git-upload-pack HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-git-upload-pack-request\r\n{both}\r\n\
             0\r\n\r\nGET /repos/smuggled/HEAD HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        let response = client.response();
        assert!(matches!(response.status, 200 | 400), "{}", response.status);
        assert!(client.is_closed(), "the connection goes on after {both:?}");
    }
    assert!(!face.hands.asked.lock().unwrap().iter().any(|name| name == "smuggled"));
}

#[test]
fn broken_chunks_are_no_body() {
    let face = Face::start();
    let head = "POST /repos/a/git-upload-pack HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-git-upload-pack-request\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "-1\r\nx\r\n",
        "g\r\nx\r\n",
        "4\r\n00000\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nx",
    ] {
        let mut client = face.connect();
        client.send(format!("{head}{body}"));
        client.finish_sending();
        let response = client.try_response();
        assert!(
            response.as_ref().is_none_or(|r| r.status == 400),
            "{body:?}: {response:?}"
        );
        assert!(client.is_closed());
    }
}

#[test]
fn gzip_bodies_are_read_and_bombs_are_not() {
    let face = Face::start();
    let mut two = gzip(b"0004");
    two.extend(gzip(b"0000"));
    for encoding in ["gzip", "x-gzip"] {
        let response = face.post(
            "/repos/a/git-upload-pack",
            &format!("Content-Encoding: {encoding}\r\n"),
            &two,
        );
        assert_eq!(response.status, 200);
        assert!(response.text().ends_with("len=8 00040000"), "{}", response.text());
    }
    // Encodings we do not know are the service's to stumble over.
    let response = face.post("/repos/a/git-upload-pack", "Content-Encoding: br\r\n", b"0000");
    assert!(response.text().ends_with("len=4 0000"), "{}", response.text());
    // More than is collected, in chunks of which the first comes late.
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(3_000_000)
    .collect();
    let packed = gzip(&noise);
    assert!(packed.len() > 2 << 20);
    let mut client = face.connect();
    client.send("POST /repos/a/git-upload-pack HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Type: application/x-git-upload-pack-request\r\nTransfer-Encoding: chunked\r\n\r\n");
    std::thread::sleep(Duration::from_millis(50));
    client.send(format!("{:x}\r\n", packed.len()));
    client.send([&packed[..], b"\r\n0\r\n\r\n"].concat());
    assert!(client.response().text().contains("len=3000000 "));
    let bomb = gzip(&vec![0; 64 << 20]);
    let response = face.post("/repos/a/git-upload-pack", "Content-Encoding: gzip\r\n", &bomb);
    assert_eq!(response.status, 413, "{}", response.text());
    let mut garbage = two.clone();
    garbage.extend(b"garbage");
    for bad in [&garbage[..], &two[..30], b"plain"] {
        let response = face.post("/repos/a/git-upload-pack", "Content-Encoding: gzip\r\n", bad);
        assert_eq!(response.status, 400, "{}", response.text());
    }
}

#[test]
fn a_body_that_ends_early_is_not_a_request() {
    let face = Face::start();
    for length in [100, 1_000_000] {
        let mut client = face.connect();
        client.send(format!(
            "POST /repos/a/git-upload-pack HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: {length}\r\n\r\n0000"
        ));
        client.finish_sending();
        let response = client.try_response();
        assert!(response.as_ref().is_none_or(|r| r.status == 400), "{response:?}");
    }
}

#[test]
fn bytes_after_the_length_are_not_the_body() {
    let face = Face::start();
    let mut client = face.connect();
    let mut request = post("/repos/a/git-upload-pack", "", b"0000");
    request.extend_from_slice(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    client.send(request);
    assert!(client.response().text().ends_with("len=4 0000"));
    assert_eq!(client.response().text(), "ok\n");
}

#[test]
fn a_silent_body_is_given_up() {
    let face = Face::with(|setup| setup.limits.read_idle = Duration::from_millis(50));
    for length in [100, 1_000_000] {
        let mut client = face.connect();
        client.send(format!(
            "POST /repos/a/git-upload-pack HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-git-upload-pack-request\r\nContent-Length: {length}\r\n\r\n0000"
        ));
        assert_eq!(client.response().status, 408, "of {length} bytes");
    }
}

#[test]
fn a_body_that_drips_is_given_up() {
    let face = Face::with(|setup| {
        setup.limits.read_idle = Duration::from_millis(200);
        setup.limits.min_pace = 1 << 20;
    });
    let mut client = face.connect();
    client.send(
        "POST /repos/a/git-receive-pack HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: 10000000\r\n\r\n",
    );
    let mut drip = client.raw().try_clone().unwrap();
    // 2 KiB in each idle time would have been enough for ever.
    let dripping = std::thread::spawn(move || {
        for _ in 0..1000 {
            if std::io::Write::write_all(&mut drip, &[b'0'; 1024]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(client.response().status, 408);
    drop(client);
    dripping.join().unwrap();
}

#[test]
fn heads_that_do_not_come_are_not_waited_for() {
    let face = Face::with(|setup| setup.limits.header_timeout = Duration::from_millis(50));
    for start in [
        "",
        "GE",
        "GET /healthz HTTP/1.1\r\nHost: h\r\nX-Slow: ",
        "PRI * HT",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = face.connect();
        client.send(start);
        assert!(client.is_closed(), "{start:?}");
    }
    // The same for who has been answered and asks nothing more.
    let mut client = face.connect();
    client.send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert!(client.is_closed());
}

#[test]
fn a_head_without_end_is_cut_off() {
    let face = Face::start();
    let mut client = face.connect();
    client.send("GET /healthz HTTP/1.1\r\nHost: h\r\n");
    let line = format!("X-Long: {}\r\n", "x".repeat(8_000));
    for _ in 0..200 {
        if client.try_send(line.as_bytes()).is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    let _ = client.raw().read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 431"), "{rest}");
}
