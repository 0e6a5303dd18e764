use std::{
    io::{ErrorKind, Read, Write},
    pin::Pin,
    sync::{Arc, Barrier, atomic::Ordering, mpsc},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use super::*;
use crate::base::Limits;

const PATIENCE: Duration = Duration::from_secs(20);

#[allow(clippy::field_reassign_with_default, reason = "`Limits` is non-exhaustive for good")]
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.long_workers = 2;
    limits.short_workers = 1;
    limits.queued = 1;
    limits.per_repository = 2;
    limits
}

fn workers(limits: &Limits) -> Workers {
    Workers::start(limits).expect("threads can be started")
}

type TestAnswer = Answer<&'static str, &'static str>;
type TestReply = Reply<&'static str, &'static str>;

async fn pipe(
    workers: &Workers,
    job: impl FnOnce(&mut TestReply) -> Result<(), &'static str> + Send + 'static,
) -> TestAnswer {
    let permit = workers.admit(Lane::Long, Some("a")).await.unwrap();
    workers.pipe(permit, job).await
}

/// A request body that a test feeds by hand.
fn body() -> (tokio::sync::mpsc::Sender<Bytes>, Received) {
    let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(1);
    (send, Received(receive))
}

#[derive(Debug)]
struct Received(tokio::sync::mpsc::Receiver<Bytes>);

impl Body for Received {
    type Data = Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|item| item.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[tokio::test]
async fn a_small_answer_comes_in_one_piece() {
    let workers = workers(&limits());
    let answer = pipe(&workers, |reply| {
        reply.set_head("head");
        reply
            .write_all(b"hello ")
            .and_then(|()| reply.write_all(b"world"))
            .map_err(|_| "write")
    })
    .await;
    let Answer::Whole { head, body } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((head, &body[..]), (Some("head"), &b"hello world"[..]));
}

#[tokio::test]
async fn a_large_answer_arrives_whole_and_in_order() {
    let workers = workers(&limits());
    let wanted: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let written = wanted.clone();
    let answer = pipe(&workers, move |reply| reply.write_all(&written).map_err(|_| "write")).await;
    let Answer::Stream { body, .. } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(body.collect().await.unwrap().to_bytes(), wanted);
}

#[tokio::test]
async fn a_flush_sends_what_there_is_while_the_job_goes_on() {
    let workers = workers(&limits());
    let (go, wait) = mpsc::channel::<()>();
    let answer = pipe(&workers, move |reply| {
        let _ = reply.write_all(b"first");
        let _ = reply.flush();
        let _ = wait.recv_timeout(PATIENCE);
        reply.write_all(b"second").map_err(|_| "write")
    })
    .await;
    let Answer::Stream { mut body, .. } = answer else {
        panic!("{answer:?}")
    };
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[..], b"first");
    go.send(()).unwrap();
    assert_eq!(&body.collect().await.unwrap().to_bytes()[..], b"second");
}

#[tokio::test]
async fn an_error_before_the_first_byte_is_an_error_and_after_it_the_bytes_speak() {
    let workers = workers(&limits());
    let answer = pipe(&workers, |_| Err("no")).await;
    assert!(matches!(answer, Answer::Failed("no")), "{answer:?}");
    let answer = pipe(&workers, |reply| {
        reply.write_all(b"ERR no").map_err(|_| "write").and(Err("no"))
    })
    .await;
    assert!(
        matches!(&answer, Answer::Whole { body, .. } if &body[..] == b"ERR no"),
        "{answer:?}"
    );
    let answer = pipe(&workers, |reply| {
        let _ = reply.write_all(b"half");
        reply.cut_short();
        Err("no")
    })
    .await;
    assert!(matches!(answer, Answer::Failed("no")), "{answer:?}");
}

#[tokio::test]
async fn a_panic_ends_its_own_job_only() {
    let workers = workers(&limits());
    for _ in 0..5 {
        let answer = pipe(&workers, |reply| {
            let _ = reply.write_all(b"not to be believed");
            panic!("on purpose");
        })
        .await;
        assert!(matches!(answer, Answer::Panicked), "{answer:?}");
    }
    let answer = pipe(&workers, |reply| {
        let _ = reply.write_all(b"sent");
        let _ = reply.flush();
        panic!("on purpose");
    })
    .await;
    let Answer::Stream { body, .. } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(body.collect().await.unwrap_err(), CutShort);
    assert_eq!(
        workers.call(Lane::Long, None, || -> u8 { panic!("on purpose") }).await,
        Err(CallError::Panicked)
    );
    assert_eq!(workers.call(Lane::Long, None, || 7).await, Ok(7));
    // The caller is told while the thread still unwinds, and another thread may have taken the last job.
    assert!(workers.wait_until_quiet(Duration::from_secs(10)));
    assert_eq!(workers.stats().panics, 7);
}

#[tokio::test]
async fn a_slow_reader_blocks_the_writer_and_is_given_up_in_the_end() {
    let mut limits = limits();
    limits.write_idle = Duration::from_millis(50);
    let workers = workers(&limits);
    let (send, receive) = tokio::sync::oneshot::channel();
    let answer = pipe(&workers, move |reply| {
        let chunk = [7u8; CHUNK_BYTES];
        let error = loop {
            if let Err(error) = reply.write_all(&chunk) {
                break error;
            }
        };
        let _ = send.send((error.kind(), reply.written(), reply.is_stopped()));
        Err("gave up")
    })
    .await;
    let Answer::Stream { body, .. } = answer else {
        panic!("{answer:?}")
    };
    let (kind, written, stopped) = receive.await.unwrap();
    assert_eq!(kind, ErrorKind::TimedOut);
    assert!(stopped);
    assert!(written <= 11 * CHUNK_BYTES as u64, "{written} bytes went somewhere");
    // What the client finds afterwards does not look like an answer that ended.
    assert_eq!(body.collect().await.unwrap_err(), CutShort);
}

#[tokio::test]
async fn a_gone_reader_raises_the_flag_and_fails_the_write() {
    let workers = workers(&limits());
    let (go, wait) = mpsc::channel::<()>();
    let (send, receive) = tokio::sync::oneshot::channel();
    let answer = pipe(&workers, move |reply| {
        let _ = reply.write_all(b"x");
        let _ = reply.flush();
        let _ = wait.recv_timeout(PATIENCE);
        let kind = reply.write_all(b"y").map_err(|e| e.kind());
        let _ = send.send((reply.stop().load(Ordering::Relaxed), kind));
        Ok(())
    })
    .await;
    drop(answer);
    go.send(()).unwrap();
    assert_eq!(receive.await.unwrap(), (true, Err(ErrorKind::BrokenPipe)));
}

#[tokio::test]
async fn whoever_leaves_before_the_first_byte_is_noticed_too() {
    let workers = workers(&limits());
    let (started, is_started) = tokio::sync::oneshot::channel();
    let (send, receive) = tokio::sync::oneshot::channel();
    let (go, wait) = mpsc::channel::<()>();
    let mine = workers.clone();
    let waiting = tokio::spawn(async move {
        pipe(&mine, move |reply| {
            let _ = started.send(());
            let _ = wait.recv_timeout(PATIENCE);
            let _ = send.send(reply.is_stopped());
            Ok(())
        })
        .await
    });
    is_started.await.unwrap();
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    go.send(()).unwrap();
    assert!(receive.await.unwrap());
}

#[tokio::test]
async fn a_full_house_answers_busy_and_opens_again() {
    let mut limits = limits();
    limits.per_repository = 8;
    let workers = workers(&limits);
    let one = workers.admit(Lane::Long, Some("a")).await.unwrap();
    let two = workers.admit(Lane::Long, Some("b")).await.unwrap();
    let third = {
        let workers = workers.clone();
        tokio::spawn(async move { workers.admit(Lane::Long, Some("c")).await })
    };
    while workers.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    let busy = workers.admit(Lane::Long, Some("d")).await.unwrap_err();
    assert_eq!(busy.scope, BusyScope::House);
    assert!(busy.retry_after >= Duration::from_secs(1));
    // The other lane has threads and a queue of its own.
    assert_eq!(workers.call(Lane::Short, None, || 1).await, Ok(1));
    drop(one);
    let third = third.await.unwrap().unwrap();
    drop((two, third));
    assert_eq!(workers.keys_in_use(), 0);
    assert_eq!(workers.stats().waiting, 0);
    assert_eq!(workers.stats().refused, 1);
}

#[tokio::test]
async fn one_repository_cannot_fill_the_house() {
    let mut limits = limits();
    limits.per_repository = 1;
    limits.queued = 8;
    let workers = workers(&limits);
    let one = workers.admit(Lane::Long, Some("a")).await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let workers = workers.clone();
            tokio::spawn(async move { workers.admit(Lane::Long, Some("a")).await.map(drop) })
        })
        .collect();
    while workers.stats().waiting < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        workers.admit(Lane::Long, Some("a")).await.unwrap_err().scope,
        BusyScope::Key
    );
    drop(workers.admit(Lane::Long, Some("b")).await.unwrap());
    drop(one);
    for task in waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn waiting_has_an_end() {
    let mut limits = limits();
    limits.queue_wait = Duration::from_millis(20);
    let workers = workers(&limits);
    let held = workers.admit(Lane::Short, None).await.unwrap();
    assert_eq!(
        workers.admit(Lane::Short, None).await.unwrap_err().scope,
        BusyScope::House
    );
    drop(held);
    assert!(workers.admit(Lane::Short, None).await.is_ok());
}

#[tokio::test]
async fn a_place_in_the_queue_is_given_back_by_who_leaves_it() {
    let workers = workers(&limits());
    let held = workers.admit(Lane::Short, Some("a")).await.unwrap();
    for _ in 0..3 {
        let mine = workers.clone();
        let waiting = tokio::spawn(async move { mine.admit(Lane::Short, Some("a")).await.map(drop) });
        while workers.stats().waiting == 0 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        let _ = waiting.await;
        assert_eq!(workers.stats().waiting, 0);
    }
    drop(held);
    assert_eq!(workers.keys_in_use(), 0);
}

#[tokio::test]
async fn jobs_run_on_threads_with_names() {
    let workers = workers(&limits());
    let name = workers
        .call(Lane::Short, None, || std::thread::current().name().map(str::to_owned))
        .await;
    assert_eq!(name, Ok(Some("short-0".to_owned())));
}

#[tokio::test]
async fn quiet_is_when_no_job_runs() {
    let workers = workers(&limits());
    let barrier = Arc::new(Barrier::new(2));
    let mine = Arc::clone(&barrier);
    let permit = workers.admit(Lane::Long, None).await.unwrap();
    workers.spawn(permit, move || {
        mine.wait();
    });
    assert!(!workers.wait_until_quiet(Duration::ZERO));
    barrier.wait();
    assert!(workers.wait_until_quiet(PATIENCE));
}

#[tokio::test]
async fn a_body_is_read_across_its_chunks() {
    let workers = workers(&limits());
    let (send, body) = body();
    let mut reader = BodyReader::new(body, Pace::new(PATIENCE, 1));
    let read = tokio::spawn(async move {
        workers
            .call(Lane::Long, None, move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| (all, reader.received()))
            })
            .await
    });
    for part in ["ab", "", "cde"] {
        send.send(Bytes::from_static(part.as_bytes())).await.unwrap();
    }
    drop(send);
    let (all, received) = read.await.unwrap().unwrap().unwrap();
    assert_eq!((&all[..], received), (&b"abcde"[..], 5));
}

#[tokio::test]
async fn a_silent_or_dripping_client_is_given_up() {
    let workers = workers(&limits());
    let (send, body) = body();
    let mut reader = BodyReader::new(body, Pace::new(Duration::from_millis(40), 4096));
    let drip = tokio::spawn(async move {
        while send.send(Bytes::from_static(b"x")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let (error, received) = workers
        .call(Lane::Long, None, move || {
            let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err();
            (error, reader.received())
        })
        .await
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(received < 100, "{received}");
    drip.await.unwrap();
}

#[tokio::test]
async fn what_a_job_did_not_read_is_drained_within_bounds() {
    let workers = workers(&limits());
    for (sent, most, whole) in [(3usize, 100u64, true), (30, 100, false)] {
        let (send, body) = body();
        let mut reader = BodyReader::new(body, Pace::new(PATIENCE, 1));
        let feed = tokio::spawn(async move {
            for _ in 0..sent {
                if send.send(Bytes::from_static(&[1; 10])).await.is_err() {
                    return;
                }
            }
        });
        let handle = tokio::runtime::Handle::current();
        let drained = workers
            .call(Lane::Long, None, move || {
                let mut first = [0; 4];
                reader.read_exact(&mut first).unwrap();
                handle.block_on(reader.discard(most, PATIENCE))
            })
            .await;
        assert_eq!(drained, Ok(whole));
        feed.await.unwrap();
    }
}
