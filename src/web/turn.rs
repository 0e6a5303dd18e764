//! Whose turn it is on a response: ours to say more, or the client's to take what there is.
//!
//! A stream of HTTP/2 without a window is not asked for its body again, so nothing that is asked can notice that its client has gone quiet, and what is ready for it would
//! stay in memory for ever. So each stream is watched from outside, by the task that it runs in.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::rt::Executor;
use tokio::time::{Instant, sleep_until};

use crate::worker::Pace;

tokio::task_local! {
    static OF_STREAM: Arc<Turn>;
}

/// The state of one response.
#[derive(Debug)]
pub(super) struct Turn {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Since when it is the client's turn, and the bytes that it was given last.
    waiting: Option<(Instant, usize)>,
}

impl Turn {
    pub(super) fn new(pace: Pace) -> Self {
        let state = Mutex::new(State { pace, waiting: None });
        Turn { state }
    }

    /// That of the stream which the present task is for; `None` in HTTP/1.
    pub(super) fn of_stream() -> Option<Arc<Self>> {
        OF_STREAM.try_with(Arc::clone).ok()
    }

    /// Bytes, or the head of a response, are there for the client.
    pub(super) fn given(&self, bytes: usize) {
        self.lock().waiting = Some((Instant::now(), bytes));
    }

    /// There is room for more: the client has taken what it was given.
    pub(super) fn asked(&self) {
        let mut state = self.lock();
        if let Some((since, bytes)) = state.waiting.take() {
            state.pace.moved(since.elapsed(), bytes);
        }
    }

    /// When the client is to be given up, if it is its turn.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.lock();
        state.waiting.map(|(since, _)| since + state.pace.left())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the streams of HTTP/2 and drops, which resets them, those whose client takes nothing.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) pace: Pace,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let turn = Arc::new(Turn::new(self.pace.clone()));
        let idle = self.pace.left();
        let watching = Arc::clone(&turn);
        tokio::spawn(OF_STREAM.scope(turn, async move {
            let mut stream = pin!(stream);
            loop {
                let look = watching.deadline().unwrap_or_else(|| Instant::now() + idle);
                tokio::select! {
                    biased;
                    _ = stream.as_mut() => return,
                    () = sleep_until(look) => {}
                }
                if watching.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                    tracing::debug!("stream reset: its client takes nothing");
                    return;
                }
            }
        }));
    }
}
