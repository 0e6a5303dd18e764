//! Bytes in motion: streams both ways, clients that leave or stall, full houses, and the end of the day.

use std::{
    sync::{
        Mutex,
        atomic::Ordering,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

use gitstead::base::Fault;

use super::support::*;

/// A repository whose requests say when they have begun, and end when they are told to.
fn gated() -> (Fake, Receiver<()>, Sender<()>) {
    let (begun, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let may_go = Mutex::new(may_go);
    let fake = Fake::new(move |_, _, out| {
        begun.send(()).unwrap();
        may_go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        out.write_all(b"done").map_err(failure)
    });
    (fake, has_begun, go)
}

fn begin(face: &Face, repo: &str) -> Client {
    let mut client = face.connect();
    client.send(post(&format!("/repos/{repo}/git-receive-pack"), "", b"commands"));
    client
}

#[test]
fn large_bodies_stream_both_ways() {
    let face = Face::with(|setup| {
        let echo = Fake::new(|_, body, out| std::io::copy(body, out).map(drop).map_err(failure));
        setup.repos = vec![("echo", echo)];
    });
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let response = face.post("/repos/echo/git-receive-pack", "", &content);
    assert!(response.body == content && response.whole);
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    let mut request =
        b"POST /repos/echo/git-receive-pack HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
        Content-Type: application/x-git-receive-pack-request\r\n\r\n"
            .to_vec();
    for chunk in content.chunks(100_000) {
        request.extend(format!("{:x};ext=1\r\n", chunk.len()).bytes());
        request.extend_from_slice(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    // Read and write at once: the server answers while it is still being sent to.
    let mut client = face.connect();
    let mut sender = client.raw().try_clone().unwrap();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &request).unwrap());
    let response = client.response();
    sending.join().unwrap();
    assert!(response.body == content && response.whole);
    // The connection is good for another one.
    client.send(post("/repos/echo/git-upload-pack", "", b"0000"));
    assert_eq!(client.response().text(), "0000");
}

#[test]
fn who_asks_first_is_told_to_continue() {
    let face = Face::start();
    for length in [4, 100_000] {
        let mut client = face.connect();
        client.send(format!(
            "POST /repos/a/git-receive-pack HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        ));
        assert_eq!(client.head_response().status, 100);
        client.send(vec![b'0'; length]);
        assert!(client.response().text().contains(&format!("len={length} ")));
    }
    // Who is not let in is told so before sending anything.
    let mut client = face.connect();
    client.send(
        "POST /repos/-/git-receive-pack HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n",
    );
    let first = client.head_response().status;
    assert!(matches!(first, 100 | 404), "{first}");
}

#[test]
fn a_refused_client_gets_to_read_why() {
    let face = Face::with(|setup| {
        let refuse = Fake::new(|_, body, _| {
            let mut first = [0; 4];
            body.read_exact(&mut first).map_err(failure)?;
            Err(gitstead::web::Failure {
                fault: Fault::Client,
                public: "not like this\u{1b}[31m".into(),
                source: None,
            })
        });
        setup.repos = vec![("refuse", refuse)];
    });
    // Far more than the buffers between us hold.
    let response = face.post("/repos/refuse/git-receive-pack", "", &vec![0; 20 << 20]);
    assert_eq!(
        (response.status, response.text().as_str()),
        (400, "not like this?[31m\n")
    );
    let response = face.post("/repos/absent!/git-receive-pack", "", &vec![0; 20 << 20]);
    assert_eq!(response.status, 404);
}

#[test]
fn a_panic_is_an_answer_or_a_cut() {
    let face = Face::with(|setup| {
        let early = Fake::new(|_, _, _| panic!("on purpose"));
        let late = Fake::new(|_, _, out| {
            out.write_all(&[b'x'; 200_000]).map_err(failure)?;
            panic!("on purpose");
        });
        setup.repos.push(("early", early));
        setup.repos.push(("late", late));
    });
    let response = face.post("/repos/early/git-upload-pack", "", b"0000");
    assert_eq!(
        (response.status, response.text().as_str()),
        (500, "internal server error\n")
    );
    let mut client = face.connect();
    client.send(post("/repos/late/git-upload-pack", "", b"0000"));
    let response = client.try_response();
    assert!(
        response.is_none_or(|response| response.status == 200 && !response.whole),
        "a cut answer must not look like a whole one"
    );
    assert_eq!(face.house.workers.stats().panics, 2);
    assert_eq!(face.post("/repos/a/git-upload-pack", "", b"0000").status, 200);
}

#[test]
fn a_gone_client_stops_its_job() {
    let (ended, has_ended) = mpsc::channel();
    let (begun, has_begun) = mpsc::channel();
    let face = Face::with(move |setup| {
        let job = Fake::new(move |context, _, out| {
            begun.send(()).unwrap();
            // Works without writing: only the flag can tell.
            while !context.stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            ended.send(out.write_all(b"x").is_err()).unwrap();
            Ok(())
        });
        setup.repos = vec![("job", job)];
    });
    let client = begin(&face, "job");
    has_begun.recv_timeout(PATIENCE).unwrap();
    drop(client);
    assert!(has_ended.recv_timeout(PATIENCE).unwrap());
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let (ended, has_ended) = mpsc::channel();
    let face = Face::with(move |setup| {
        setup.limits.write_idle = Duration::from_millis(100);
        let endless = Fake::new(move |_, _, out| {
            while out.write_all(&[0; 64 << 10]).is_ok() {}
            ended.send(()).unwrap();
            Ok(())
        });
        setup.repos = vec![("endless", endless)];
    });
    let client = begin(&face, "endless");
    has_ended.recv_timeout(PATIENCE).unwrap();
    drop(client);
}

/// The beginning of a chunked POST that goes on for ever.
fn unfinished(face: &Face, target: &str) -> Client {
    let service = target.rsplit('/').next().unwrap_or_default();
    let mut client = face.connect();
    client.send(format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-{service}-request\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n00000000\r\n"
    ));
    client
}

#[test]
fn who_is_not_let_in_holds_no_long_worker() {
    let face = Face::with(|setup| {
        setup.limits.long_workers = 1;
        setup.limits.queued = 0;
    });
    let start = Instant::now();
    let mut refused: Vec<Client> = (0..4)
        .map(|_| unfinished(&face, "/repos/absent!/git-receive-pack"))
        .collect();
    for client in &mut refused {
        // Told at once, though it goes on sending.
        assert_eq!(client.response().status, 404);
        client.send("4\r\n0000\r\n");
    }
    assert_eq!(face.post("/repos/a/git-receive-pack", "", b"commands").status, 200);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(face.house.workers.wait_until_quiet(Duration::from_secs(5)));
}

#[test]
fn a_fetch_that_is_slow_to_ask_holds_no_long_worker() {
    let face = Face::with(|setup| {
        setup.limits.long_workers = 1;
        setup.limits.queued = 0;
    });
    let mut slow: Vec<Client> = (0..3).map(|_| unfinished(&face, "/repos/a/git-upload-pack")).collect();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(face.post("/repos/a/git-receive-pack", "", b"commands").status, 200);
    for client in &mut slow {
        // An answer may be read before its worker is free again, and nobody may wait here.
        assert!(face.house.workers.wait_until_quiet(PATIENCE));
        client.send("0\r\n\r\n");
        assert!(client.response().text().ends_with("len=8 00000000"));
    }
}

/// Without a window the server's side of a stream is never asked for its bytes again.
#[test]
fn a_stream_of_http_2_that_is_given_no_window_is_reset() {
    use std::io::Read;
    let face = Face::with(|setup| setup.limits.write_idle = Duration::from_millis(100));
    let mut client = face.connect();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
        bytes.extend_from_slice(payload);
        bytes
    };
    let path = b"/repos/a/info/refs?service=git-receive-pack";
    let mut headers = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    headers.extend_from_slice(path);
    headers.extend_from_slice(b"\x01\x09localhost");
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE = 0
    request.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for stream in [1, 3] {
        request.extend(frame(1, 0x5, stream, &headers));
    }
    client.send(request);
    let stream = client.raw();
    let (mut reset, mut streams) = (Vec::new(), None);
    while reset.len() < 2 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("the streams are reset in time");
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).unwrap();
        match head[3] {
            3 => reset.push(head[8]),
            4 if head[4] == 0 => {
                let most = payload.chunks(6).find(|setting| setting[..2] == [0, 3]);
                streams = most.map(|setting| setting[5]);
            }
            _ => {}
        }
    }
    reset.sort_unstable();
    assert_eq!((reset, streams), (vec![1, 3], Some(16)));
}

#[test]
fn a_busy_repository_answers_429_and_a_busy_house_503() {
    let (fake, begun, go) = gated();
    let face = Face::with(|setup| {
        setup.limits.long_workers = 1;
        setup.limits.per_repository = 1;
        setup.limits.queued = 0;
        setup.repos.push(("slow", fake));
    });
    let mut first = begin(&face, "slow");
    begun.recv_timeout(PATIENCE).unwrap();
    for (repo, status) in [("slow", 429), ("a", 503)] {
        let response = face.post(&format!("/repos/{repo}/git-receive-pack"), "", b"commands");
        assert_eq!(response.status, status, "{repo}");
        let after: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..60).contains(&after));
        // A client that sends much still reads it.
        let response = face.post(&format!("/repos/{repo}/git-receive-pack"), "", &vec![0; 4 << 20]);
        assert_eq!(response.status, status, "{repo}");
    }
    // Short work has threads of its own.
    assert_eq!(face.get("/repos/a/info/refs?service=git-upload-pack").status, 200);
    let ls_refs = face.post("/repos/a/git-upload-pack", "", b"0014command=ls-refs\n0000");
    assert_eq!(ls_refs.status, 200);
    go.send(()).unwrap();
    assert_eq!(first.response().text(), "done");
}

#[test]
fn connections_beyond_the_cap_wait_for_their_turn() {
    let face = Face::with(|setup| setup.limits.connections = 2);
    let request = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut inside: Vec<Client> = (0..2).map(|_| face.connect()).collect();
    for client in &mut inside {
        client.send(request);
        assert_eq!(client.response().status, 200);
    }
    let mut outside = face.connect();
    outside.send(request);
    for client in &mut inside {
        client.send(request);
        assert_eq!(client.response().status, 200);
    }
    assert!(outside.is_silent());
    drop(inside.pop());
    assert_eq!(outside.response().status, 200);
}

#[test]
fn running_requests_finish_when_the_house_closes() {
    let (fake, begun, go) = gated();
    let mut face = Face::with(|setup| setup.repos.push(("slow", fake)));
    let mut idle = face.connect();
    idle.send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(idle.response().status, 200);
    let mut running = begin(&face, "slow");
    begun.recv_timeout(PATIENCE).unwrap();
    face.stop();
    assert!(idle.is_closed(), "who asks nothing is sent home");
    assert!(std::net::TcpStream::connect(face.address).is_err(), "the door is shut");
    go.send(()).unwrap();
    assert_eq!(running.response().text(), "done");
    let drain = face.drained();
    assert_eq!((drain.finished, drain.cut), (2, 0));
    assert!(face.house.workers.wait_until_quiet(PATIENCE));
}

#[test]
fn a_request_that_does_not_end_is_cut_at_the_end_of_the_drain() {
    let (begun, has_begun) = mpsc::channel();
    let (ended, has_ended) = mpsc::channel();
    let mut face = Face::with(move |setup| {
        setup.limits.drain = Duration::from_millis(50);
        let endless = Fake::new(move |context, _, _| {
            begun.send(()).unwrap();
            while !context.stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
            Ok(())
        });
        setup.repos = vec![("endless", endless)];
    });
    let mut running = begin(&face, "endless");
    has_begun.recv_timeout(PATIENCE).unwrap();
    face.stop();
    assert_eq!(face.drained().cut, 1);
    assert!(running.is_closed());
    has_ended.recv_timeout(PATIENCE).unwrap();
    assert!(face.house.workers.wait_until_quiet(PATIENCE));
}

#[test]
fn a_closing_house_says_that_it_is_not_ready() {
    let face = Face::start();
    assert_eq!(face.get("/readyz").status, 200);
    face.house.close();
    assert_eq!(face.get("/readyz").status, 503);
    assert_eq!(face.get("/healthz").status, 200);
}
