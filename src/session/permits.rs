//! What an agent wants to be allowed: decided by a rule at once, by somebody who is asked, or by nobody in time. Every decision is an event, and is noted in the audit file.

use serde_json::{Value, json};

use super::{
    RuleDecision,
    ask::Asker,
    audit::beginning,
    host::Desk,
    policy::{Placed, Ruling},
    shared::{Question, Shared},
};
use crate::{
    agent::{Agent, Command},
    dialect::{Decision, Gone, Permission},
};

/// Characters of what a tool is given, in a note.
const INPUT: usize = 500;

/// Who has decided, for the note.
pub(super) enum By<'a> {
    /// Somebody, through whichever door.
    User(&'a Asker),
    /// A rule.
    Rule(&'a Placed),
    /// Nobody has answered in time.
    Deadline,
    /// Too many questions waited already.
    Bound,
    /// Nobody decides any more.
    Gone(Gone),
}

impl Placed {
    /// As events and notes tell of it.
    fn told(&self) -> Value {
        json!({ "of": self.of, "number": self.number, "text": self.rule.to_string() })
    }
}

impl Shared {
    /// What is noted of a decision: `allowed`, `denied`, `expired` or `cancelled`.
    pub(super) fn note_of(&self, asked: u64, permission: &Permission, decision: &str, by: &By<'_>) -> Value {
        let record = self.record().clone();
        let hidden = |text: &str| self.hide(text);
        let mut note = json!({
            "agent": record.name,
            "run": record.run,
            "owner": record.owner,
            "session_id": record.desk,
            "conversation": record.session.as_deref().map(hidden),
            "request": asked.to_string(),
            "call": permission.call.as_deref().map(hidden),
            "tool": hidden(&permission.tool),
            "name": hidden(&permission.name),
            "summary": hidden(&permission.summary),
            "input": beginning(&hidden(&permission.input), INPUT),
            "decision": decision,
        });
        let mut add = |key: &str, value: Value| note[key] = value;
        match by {
            By::User(asker) => {
                add("by", json!("user"));
                add("user", json!(asker.user));
                add("address", json!(asker.address));
                add("request_id", json!(asker.request));
            }
            By::Rule(placed) => {
                add("by", json!("rule"));
                add("rule", placed.told());
            }
            By::Deadline => add("by", json!("deadline")),
            By::Bound => add("by", json!("bound")),
            By::Gone(Gone::Interrupted) => add("by", json!("interrupt")),
            By::Gone(Gone::Withdrawn) => add("by", json!("agent")),
            By::Gone(Gone::Ended) => add("by", json!("end")),
        }
        note
    }

    /// Answers for those who did not.
    pub(super) async fn deny(&self, agent: &Agent, asked: u64, why: String, is_late: bool) {
        let Some(mut question) = self.take_question(|question| question.asked == asked) else {
            return;
        };
        // Which is who does this.
        question.timer = None;
        let request = question.permission.request.clone();
        let name = self.record().name.clone();
        let tool = self.hide(&question.permission.tool);
        tracing::warn!(agent = %name, tool, why, "permission denied");
        self.events.push(
            "permission_decided",
            json!({ "request": asked.to_string(), "decision": "denied", "by": null, "why": why }),
        );
        let (word, by) = match is_late {
            true => ("expired", By::Deadline),
            false => ("denied", By::Bound),
        };
        let note = self.note_of(asked, &question.permission, word, &by);
        self.audit.put("permission", note);
        let decision = Decision::Deny {
            reason: why,
            stop: false,
        };
        agent.send(Command::Permit(request, decision)).await;
    }

    /// A question is not waited for any more.
    pub(super) fn is_gone(&self, question: &Question, why: Gone) {
        let name = question.asked.to_string();
        self.events
            .push("permission_gone", json!({ "request": name, "why": why.as_str() }));
        let note = self.note_of(question.asked, &question.permission, "cancelled", &By::Gone(why));
        self.audit.put("permission", note);
    }
}

impl Desk {
    /// It does not want to know any more what it has asked by this name of its own.
    pub(super) fn gone_question(&self, request: &str, why: Gone) {
        if let Some(gone) = self.shared.take_question(|one| one.permission.request == request) {
            self.shared.is_gone(&gone, why);
        }
    }

    /// Tells that it wants to be allowed something. Returns the number of the event.
    fn tell(&self, permission: &Permission, rule: Option<&Placed>) -> u64 {
        // An answer could not say which of two is meant, and the agent would take it for the newer one.
        self.gone_question(&permission.request, Gone::Withdrawn);
        let mut data = json!({
            "call": permission.call,
            "tool": permission.tool,
            "name": permission.name,
            "summary": permission.summary,
        });
        if let Some(rule) = rule {
            data["rule"] = rule.told();
        }
        self.shared.events.push_named("permission", "request", data)
    }

    /// What a rule says at once, if one does.
    pub(super) fn ruled(&self, permission: &Permission) -> Option<Decision> {
        let Ruling::By(placed) = self.policy.decide(permission) else {
            return None;
        };
        let (word, decision) = match placed.rule.decision {
            RuleDecision::Allow => ("allowed", Decision::Allow),
            RuleDecision::Deny => {
                let reason = format!("a rule of the {} denies this: {}", placed.of, placed.rule);
                ("denied", Decision::Deny { reason, stop: false })
            }
            RuleDecision::Ask => return None,
        };
        let asked = self.tell(permission, None);
        self.shared.events.push(
            "permission_decided",
            json!({ "request": asked.to_string(), "decision": word, "by": null, "rule": placed.told() }),
        );
        let note = self.shared.note_of(asked, permission, word, &By::Rule(placed));
        self.shared.audit.put("permission", note);
        Some(decision)
    }

    /// It was answered with no, since too many questions wait already.
    fn refused(&self, permission: &Permission) {
        let asked = self.tell(permission, None);
        let why = "too many questions wait for an answer";
        self.shared.events.push(
            "permission_decided",
            json!({ "request": asked.to_string(), "decision": "denied", "by": null, "why": why }),
        );
        let note = self.shared.note_of(asked, permission, "denied", &By::Bound);
        self.shared.audit.put("permission", note);
    }

    /// It wants to know whether it may do something, and no rule says.
    pub(super) fn asks(&mut self, permission: Permission) {
        if permission.is_refused {
            return self.refused(&permission);
        }
        let rule = match self.policy.decide(&permission) {
            Ruling::Ask(placed) => Some(placed),
            _ => None,
        };
        let asked = self.tell(&permission, rule);
        let is_full = self.shared.questions().len() >= self.limits.agent_pending;
        let why = match is_full {
            true => "too many questions wait for an answer".to_owned(),
            false => format!("nobody has answered for {} seconds", self.answer_within.as_secs_f32()),
        };
        let mut question = Question {
            asked,
            permission,
            timer: None,
        };
        let mut questions = self.shared.questions();
        if let Some(agent) = self.agent.clone().filter(|_| is_full || !self.answer_within.is_zero()) {
            let (shared, within) = (std::sync::Arc::downgrade(&self.shared), self.answer_within);
            let task = tokio::spawn(async move {
                if !is_full {
                    tokio::time::sleep(within).await;
                }
                let Some(shared) = shared.upgrade() else { return };
                shared.deny(&agent, asked, why, !is_full).await;
            });
            question.timer = Some(task.abort_handle()).filter(|_| !is_full);
        }
        questions.push(question);
    }
}
