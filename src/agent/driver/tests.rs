use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::*;
use crate::{
    agent::{Cause, LogRing, RingBounds, Rules, SpoolBounds},
    base::SystemClock,
};

/// What an agent has asked its host for: `prepare 1`, `record 1`, and what it has become.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, what: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// A host that answers nothing by itself.
impl Host for Asked {
    fn prepare(&mut self, run: u32, _agent: &Agent) {
        self.add(format!("prepare {run}"));
    }

    fn told(&mut self, news: News<'_>) {
        if let News::Entered(status) = news {
            self.add(status.state.as_str().to_owned());
        }
    }

    fn order(&mut self, run: u32, order: crate::dialect::Order, _agent: &Agent) {
        self.add(format!("order {} of {run}", order.id()));
    }

    fn record(&mut self, run: u32, _agent: &Agent) {
        self.add(format!("record {run}"));
    }
}

fn driven(state: State, orphan: Option<Orphan>) -> (Agent, Asked, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let host = Asked::default();
    let rules = Rules {
        record: Duration::from_secs(3_600),
        ..Rules::default()
    };
    let settings = Settings {
        rules,
        spool: dir.path().join("logs"),
        spool_bounds: SpoolBounds::default(),
        line_bytes: 1 << 20,
        log: Arc::new(LogRing::new(RingBounds::default(), Duration::ZERO)),
        meter: Arc::default(),
        state,
        orphan,
        ends: Vec::new(),
        runs: u32::from(state != State::Created),
        seed: 1,
        clock: Arc::new(SystemClock),
    };
    (drive(settings, host.clone()), host, dir)
}

/// Waits until everything that was sent before has been heard and done.
async fn heard(agent: &Agent) {
    let (reply, answer) = tokio::sync::oneshot::channel();
    agent.send(Command::Input(Vec::new(), reply)).await;
    let _ = answer.await;
    let (reply, answer) = tokio::sync::oneshot::channel();
    agent.send(Command::Input(Vec::new(), reply)).await;
    let _ = answer.await;
}

#[tokio::test]
async fn a_kill_that_comes_while_an_agent_is_prepared_wins() {
    let (agent, host, _dir) = driven(State::Created, None);
    assert!(agent.start().await);
    agent.send(Command::Kill(Cause::Asked)).await;
    heard(&agent).await;
    assert_eq!(host.all(), ["prepare 1", "starting", "stopping", "record 1"]);
    let failure = SpawnFailure {
        fault: SpawnFault::Missing,
        text: "too late".to_owned(),
    };
    agent.send(Command::Prepared(1, Err(failure))).await;
    heard(&agent).await;
    assert_eq!(
        agent.status().state,
        State::Stopping,
        "its last checkpoint is being made"
    );
    agent.send(Command::Recorded(1)).await;
    heard(&agent).await;
    let status = agent.status();
    assert_eq!((status.state, status.failure), (State::Stopped, None));
}

#[tokio::test]
async fn what_an_earlier_run_is_answered_does_not_end_a_later_one() {
    let (agent, host, _dir) = driven(State::Created, None);
    assert!(agent.start().await);
    agent.send(Command::Kill(Cause::Restart)).await;
    heard(&agent).await;
    agent.send(Command::Recorded(1)).await;
    heard(&agent).await;
    agent.send(Command::Kill(Cause::Asked)).await;
    heard(&agent).await;
    let all = host.all();
    assert_eq!(all[all.len() - 2..], ["stopping", "record 2"], "{all:?}");
    agent.send(Command::Recorded(1)).await;
    agent.send(Command::Hunted(1, 7)).await;
    heard(&agent).await;
    let status = agent.status();
    assert_eq!((status.state, status.run, status.swept), (State::Stopping, 2, 0));
    agent.send(Command::Recorded(2)).await;
    heard(&agent).await;
    assert_eq!(agent.status().state, State::Stopped);
}

#[tokio::test]
async fn only_one_that_does_not_run_can_be_forgotten_and_then_nobody_hears() {
    let (agent, _host, _dir) = driven(State::Created, None);
    assert!(agent.start().await);
    assert_eq!(agent.forget().await, Err(Some(State::Starting)));
    agent.send(Command::Kill(Cause::Asked)).await;
    heard(&agent).await;
    assert_eq!(agent.forget().await, Err(Some(State::Stopping)));
    agent.send(Command::Recorded(1)).await;
    heard(&agent).await;
    assert_eq!(agent.forget().await, Ok(()));
    assert!(!agent.start().await, "there is nobody");
    assert_eq!(agent.forget().await, Err(None), "it is done");
}

#[tokio::test]
async fn what_an_earlier_server_has_left_is_killed_by_its_mark_when_nothing_else_is() {
    let orphan = Orphan {
        parent: None,
        run: "nobody-has-this-1".to_owned(),
        cgroup: None,
    };
    let (agent, host, _dir) = driven(State::Busy, Some(orphan));
    assert_eq!(agent.status().state, State::Stopping);
    agent.send(Command::Kill(Cause::Asked)).await;
    heard(&agent).await;
    assert_eq!(host.all(), [""; 0], "its parent process has its time");
    agent.send(Command::Adopted(None, 3)).await;
    heard(&agent).await;
    assert_eq!(host.all(), ["record 1"]);
    agent.send(Command::Recorded(1)).await;
    heard(&agent).await;
    let status = agent.status();
    assert_eq!(
        (status.state, status.swept, status.cause),
        (State::Stopped, 3, Some(Cause::Asked))
    );
}
