//! An agent that is a server on loopback: what it is asked, and the events that it tells.

use std::time::Duration;

use tokio::{sync::mpsc, task::JoinSet};

use super::Driver;
use crate::{
    agent::{
        handle::{Agent, Command, Host, News},
        http::{Server, address_in},
        output::Splitter,
    },
    dialect,
};

/// Requests that wait until the server is there, and that are under way.
const WAITING: usize = 64;
/// Bytes of an answer that are kept; the rest is not read.
const ANSWER: usize = 16 << 20;
/// Pieces of the stream of events that wait to be understood, each no longer than a buffer.
const PIECES: usize = 16;
/// The wait before the stream is asked for again, at first and at most.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// So often in a row it cannot be read before that is told.
const FAILURES: u32 = 10;

/// What comes of the stream of events.
pub(super) enum Heard {
    /// It begins, perhaps again.
    Begins,
    Bytes(Vec<u8>),
    /// It could not be read, again and again.
    Lost(String),
}

/// The server of a run.
pub(super) struct Web {
    authorization: String,
    server: Option<Server>,
    is_heard: bool,
    waiting: Vec<dialect::Order>,
    send: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    lines: Splitter,
    line_bytes: usize,
    /// All that is under way; dropped, it ends.
    tasks: JoinSet<()>,
}

impl Web {
    pub fn new(authorization: String, line_bytes: usize) -> Self {
        let (send, heard) = mpsc::channel(PIECES);
        Web {
            authorization,
            server: None,
            is_heard: false,
            waiting: Vec::new(),
            send,
            heard,
            lines: Splitter::new(line_bytes),
            line_bytes,
            tasks: JoinSet::new(),
        }
    }

    pub async fn next(web: Option<&mut Web>) -> Heard {
        match web {
            Some(web) => match web.heard.recv().await {
                Some(heard) => heard,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

/// Reads the stream of events for as long as somebody listens.
async fn follow(server: Server, to: mpsc::Sender<Heard>) {
    let (mut failures, mut wait) = (0, AGAIN[0]);
    loop {
        let why = match server.ask("GET", "/event", "", "text/event-stream").await {
            Ok(mut answer) if answer.status == 200 => {
                (failures, wait) = (0, AGAIN[0]);
                if to.send(Heard::Begins).await.is_err() {
                    return;
                }
                loop {
                    match answer.next().await {
                        Ok(bytes) if bytes.is_empty() => break "it has ended".to_owned(),
                        Ok(bytes) => {
                            if to.send(Heard::Bytes(bytes)).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => break error.to_string(),
                    }
                }
            }
            Ok(answer) => format!("the server answers {}", answer.status),
            Err(error) => error.to_string(),
        };
        failures += 1;
        if failures == FAILURES && to.send(Heard::Lost(why)).await.is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(AGAIN[1]);
    }
}

/// Asks, and has the agent's task told of the answer.
async fn ask(server: Server, order: dialect::Order, run: u32, agent: Agent) {
    let dialect::Order::Http { id, method, path, body } = order else {
        return;
    };
    let asked = async {
        let answer = server.ask(method, &path, &body, "application/json").await?;
        let status = answer.status;
        Ok::<_, std::io::Error>((status, answer.whole(ANSWER).await?))
    };
    let answer = match asked.await {
        Ok((status, body)) => dialect::Answer::Http { status, body },
        Err(error) => dialect::Answer::Failed(format!("the agent's server cannot be asked: {error}")),
    };
    agent.send(Command::Answer(run, id, answer)).await;
}

impl<H: Host> Driver<H> {
    /// A line of output of an agent that is a server: it may say where.
    pub(super) fn printed(&mut self, line: &[u8]) {
        let Some(web) = self.run.as_deref_mut().and_then(|run| run.web.as_mut()) else {
            return;
        };
        if web.server.is_none()
            && let Some(address) = address_in(line)
        {
            let server = Server {
                address,
                authorization: web.authorization.clone(),
            };
            web.server = Some(server.clone());
            web.tasks.spawn(follow(server, web.send.clone()));
        }
    }

    pub(super) fn http(&mut self, order: dialect::Order) -> Result<(), &'static str> {
        let me = self.remote().ok_or("nobody is there any more")?;
        let number = self.status.run;
        let web = self.run.as_deref_mut().and_then(|run| run.web.as_mut());
        let web = web.ok_or("this is not offered here")?;
        while web.tasks.try_join_next().is_some() {}
        if web.waiting.len() >= WAITING || web.tasks.len() > WAITING {
            return Err("too many requests wait");
        }
        match &web.server {
            // Before its events are heard nothing is asked of it that they would tell of.
            Some(server) if web.is_heard => {
                web.tasks.spawn(ask(server.clone(), order, number, me));
            }
            _ => web.waiting.push(order),
        }
        Ok(())
    }

    pub(super) fn heard(&mut self, heard: Heard) {
        let Some(web) = self.run.as_deref_mut().and_then(|run| run.web.as_mut()) else {
            return;
        };
        match heard {
            Heard::Begins => {
                web.lines = Splitter::new(web.line_bytes);
                web.is_heard = true;
                for order in std::mem::take(&mut web.waiting) {
                    let id = order.id().to_owned();
                    if let Err(why) = self.http(order) {
                        let answer = dialect::Answer::Failed(why.to_owned());
                        self.speak(|dialect, step| dialect.answer(&id, answer, step));
                    }
                }
            }
            Heard::Bytes(bytes) => {
                let mut lines = std::mem::replace(&mut web.lines, Splitter::new(0));
                lines.push(&bytes, |line| {
                    if line.dropped > 0 {
                        let text = "an event of the agent's server was too long to be understood".to_owned();
                        self.host.told(News::Trouble(text));
                    } else {
                        self.speak(|dialect, step| dialect.line(line.line, step));
                    }
                });
                if let Some(web) = self.run.as_deref_mut().and_then(|run| run.web.as_mut()) {
                    web.lines = lines;
                }
                self.events.push_back(super::Event::Output);
            }
            Heard::Lost(why) => {
                let text = format!("the events of the agent's server cannot be read: {why}");
                self.host.told(News::Trouble(text));
            }
        }
    }

    /// What was told before its end and not heard yet.
    pub(super) fn hear_out(&mut self) {
        // Whoever listens there now may be another one, and talk for ever.
        if let Some(web) = self.run.as_deref_mut().and_then(|run| run.web.as_mut()) {
            web.tasks.abort_all();
            web.heard.close();
        }
        while let Some(heard) = self
            .run
            .as_deref_mut()
            .and_then(|run| run.web.as_mut()?.heard.try_recv().ok())
        {
            self.heard(heard);
        }
    }
}
