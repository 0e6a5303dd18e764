use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{
    AgentRecord, EventLog, SessionError,
    ask::Asker,
    permits::By,
    shared::{Heard, Question, Shared},
    trail::Queue,
    uuid::new_uuid,
};
use crate::{
    agent::{Agent, Cause, Command, Depths, LogRing, NotTaken, State, Status},
    dialect::{Asks, Change, Decision, Kind, Permission},
};

/// A message that an agent has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The number of the event that says so: what comes of it comes after that.
    pub seq: u64,
    /// Our name of it, a UUID: events of the turn that is about it have it.
    pub message: String,
}

/// One agent of a house.
pub struct Entry {
    pub(super) shared: Arc<Shared>,
    pub(super) agent: Agent,
    pub(super) logs: PathBuf,
    pub(super) checkpoints: Queue,
}

/// What waits for an agent outside of its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    /// For the task.
    pub(super) commands: usize,
    /// To be recorded.
    pub(super) checkpoints: usize,
}

impl Entry {
    /// What the ledger knows of it.
    pub fn record(&self) -> AgentRecord {
        self.shared.record().clone()
    }

    /// What happens with it.
    pub fn events(&self) -> &Arc<EventLog> {
        &self.shared.events
    }

    /// Its last lines.
    pub fn log(&self) -> &Arc<LogRing> {
        self.agent.log()
    }

    /// Where its output is on disk.
    pub fn logs(&self) -> &PathBuf {
        &self.logs
    }

    /// A text without the secrets that it was started with.
    pub fn hide(&self, text: &str) -> String {
        self.shared.hide(text)
    }

    /// What it wants to be allowed, each by the number of the event that told of it. Texts may hold secrets: [`hide`](Self::hide) them from whoever is told.
    pub fn questions(&self) -> Vec<(u64, Permission)> {
        let questions = self.shared.questions();
        let all = questions.iter();
        all.map(|question| (question.asked, question.permission.clone()))
            .collect()
    }

    /// What it is.
    pub fn state(&self) -> State {
        self.agent.status().state
    }

    /// What waits in its task and for it.
    pub(super) fn depths(&self) -> (&Depths, Waiting) {
        let waiting = Waiting {
            commands: self.agent.waiting_commands(),
            checkpoints: self.checkpoints.len(),
        };
        (self.agent.depths(), waiting)
    }

    /// Whether its own process runs.
    pub(super) fn is_there(&self) -> bool {
        self.agent.status().pid.is_some()
    }

    /// Waits until `is` holds, or the time is over. Says what it is then.
    pub async fn wait(&self, deadline: Instant, mut is: impl FnMut(&Status) -> bool) -> Status {
        let mut watch = self.agent.watch();
        let _ = timeout_at(deadline, watch.wait_for(|status| is(status))).await;
        self.agent.status()
    }

    /// Has it stopped, gently; asked again, less so.
    pub async fn stop(&self, cause: Cause) {
        self.agent.send(Command::Stop(cause)).await;
        self.heard().await;
    }

    /// Has it stopped at once.
    pub async fn kill(&self) {
        self.agent.send(Command::Kill(Cause::Asked)).await;
        self.heard().await;
    }

    /// Whoever asks what it is after this is told that it stops.
    async fn heard(&self) {
        let soon = Instant::now() + Duration::from_secs(1);
        self.wait(soon, |status| {
            status.state.is_over() || matches!(status.state, State::Created | State::Stopping)
        })
        .await;
    }

    /// Gives it bytes of somebody's. Returns our name of them, which the event `input` has.
    ///
    /// # Errors
    /// When it cannot take them.
    pub async fn input(&self, bytes: Vec<u8>, by: Option<&str>) -> Result<String, SessionError> {
        let id = new_uuid()?;
        let data = json!({ "message_id": id, "bytes": bytes.len(), "by": by });
        let seq = self.shared.events.push("input", data);
        match self.agent.input(bytes).await {
            Ok(()) => Ok(id),
            Err(error) => {
                self.not_taken(&id, seq, &error);
                Err(error.into())
            }
        }
    }

    /// Ends its input.
    pub async fn close_input(&self) {
        self.agent.send(Command::CloseInput).await;
    }

    /// Gives it a message of somebody's.
    ///
    /// # Errors
    /// When it cannot take one.
    pub async fn ask(&self, message: String, by: Option<&str>) -> Result<Given, SessionError> {
        self.can_be_asked()?;
        self.put(new_uuid()?, message, by).await
    }

    /// As [`ask`](Self::ask), and has the answer kept whole, however long: events have the beginning of it.
    pub(super) async fn ask_for_all(&self, message: String, by: Option<&str>) -> Result<Given, SessionError> {
        let id = new_uuid()?;
        *self.shared.answer() = Some(Heard {
            message: id.clone(),
            text: None,
        });
        self.put(id, message, by).await
    }

    async fn put(&self, id: String, message: String, by: Option<&str>) -> Result<Given, SessionError> {
        let asked = json!({ "message_id": id, "text": message, "by": by });
        let seq = self.shared.events.push("asked", asked);
        match self.agent.ask(id.clone(), message).await {
            Ok(()) => Ok(Given { seq, message: id }),
            Err(error) => {
                self.not_taken(&id, seq, &error);
                Err(error.into())
            }
        }
    }

    fn not_taken(&self, id: &str, seq: u64, error: &NotTaken) {
        let data = json!({ "message_id": id, "asked": seq, "text": error.to_string() });
        self.shared.events.push("not_taken", data);
    }

    /// Whether it is of a kind that answers messages at all.
    fn can_be_asked(&self) -> Result<(), SessionError> {
        let spec = &self.shared.spec;
        let why = match spec.nature().asks {
            Asks::Many => return Ok(()),
            Asks::Lines => "takes lines on its standard input, and answers no messages: write to that (input)",
            Asks::InArguments => {
                "has its only message among its arguments, and takes no other: start it again with one"
            }
        };
        let dialect = spec.kind().map_or("", Kind::as_str);
        let text = format!("an agent of the dialect '{dialect}' {why}");
        Err(NotTaken::Refused(text).into())
    }

    /// All that the answer to this message says, if an event cannot have it. It is kept no longer.
    pub(super) fn take_answer(&self, message: &str) -> Option<String> {
        let heard = self.shared.answer().take();
        heard.filter(|heard| heard.message == message)?.text
    }

    /// Stops what it is doing, in its protocol.
    ///
    /// # Errors
    /// When there is nothing to stop so.
    pub async fn interrupt(&self) -> Result<(), SessionError> {
        Ok(self.agent.interrupt().await?)
    }

    /// Has it go on with another model, or in another mode. An event tells when it does.
    ///
    /// # Errors
    /// When it does not run, or has no way to be told.
    pub async fn change(&self, change: Change) -> Result<(), SessionError> {
        Ok(self.agent.change(change).await?)
    }

    /// Answers the question for permission that the event of this number has told of, and notes who has. Says whether it was still open.
    pub async fn permit(&self, asked: u64, mut decision: Decision, by: Option<&str>, asker: &Asker) -> bool {
        let Some(question) = self.shared.take_question(|one: &Question| one.asked == asked) else {
            return false;
        };
        let word = match &mut decision {
            Decision::Deny { reason, .. } => {
                if reason.is_empty() {
                    // A model that is told nothing tries again.
                    *reason = "the user has denied this".to_owned();
                }
                "denied"
            }
            _ => "allowed",
        };
        self.shared.events.push(
            "permission_decided",
            json!({ "request": asked.to_string(), "decision": word, "by": by }),
        );
        let mut note = self.shared.note_of(asked, &question.permission, word, &By::User(asker));
        if decision == Decision::AllowAlways {
            note["always"] = json!(true);
        }
        let request = question.permission.request.clone();
        // In this order: what the agent does next is noted behind it.
        let noted = self.shared.audit.note("permission", note);
        self.agent.send(Command::Permit(request, decision)).await;
        noted.await;
        true
    }
}
