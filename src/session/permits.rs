//! What an agent wants to be allowed: decided by a rule at once, by somebody who is asked, or by nobody in time. Every decision is an event, and is noted in the audit file; of those that an agent gets
//! because it asks too often, only the first.

use std::time::{Duration, Instant};

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

/// Questions of one agent in a second, and how many at once. Each is noted in a file for all agents, and what cannot be written there in time is lost: none of them may push out what is noted of others.
const EACH_SECOND: u32 = 50;
const AT_ONCE: u32 = 200;

/// How often an agent asks.
#[derive(Debug)]
pub(super) struct Pace {
    /// Questions that it may ask at once, and when that was counted.
    left: u32,
    at: Option<Instant>,
    /// It has asked too often, and not been quiet for a second since.
    is_over: bool,
}

/// Whether a question comes too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paced {
    Fine,
    /// And is the first that does.
    First,
    More,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            left: AT_ONCE,
            at: None,
            is_over: false,
        }
    }
}

impl Pace {
    fn next(&mut self, now: Instant) -> Paced {
        let each = Duration::from_secs(1) / EACH_SECOND;
        let at = *self.at.get_or_insert(now);
        let more = now.saturating_duration_since(at).as_nanos() / each.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(AT_ONCE);
        self.at = match self.left {
            AT_ONCE => Some(now),
            _ => Some(at + each * more),
        };
        let needed = if self.is_over { EACH_SECOND } else { 1 };
        if self.left < needed {
            let was_over = std::mem::replace(&mut self.is_over, true);
            return if was_over { Paced::More } else { Paced::First };
        }
        self.is_over = false;
        self.left -= 1;
        Paced::Fine
    }
}

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

    /// What a rule says at once, if one does; no, if it asks too often.
    pub(super) fn ruled(&mut self, permission: &Permission) -> Option<Decision> {
        self.asked_for = None;
        let reason = format!("more than {EACH_SECOND} questions in a second: nobody is asked");
        match self.pace.next(Instant::now()) {
            Paced::Fine => {}
            Paced::First => {
                self.refused(permission, &reason);
                return Some(Decision::Deny { reason, stop: false });
            }
            Paced::More => {
                self.gone_question(&permission.request, Gone::Withdrawn);
                return Some(Decision::Deny { reason, stop: false });
            }
        }
        let placed = match self.policy.decide(permission) {
            Ruling::By(placed) => placed,
            Ruling::Ask(placed) => {
                self.asked_for = Some(placed.clone());
                return None;
            }
            Ruling::Nobody => return None,
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

    /// It is answered with no, since there are too many questions.
    fn refused(&self, permission: &Permission, why: &str) {
        let asked = self.tell(permission, None);
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
            return match self.pace.next(Instant::now()) {
                Paced::More => {}
                Paced::Fine | Paced::First => self.refused(&permission, "too many questions wait for an answer"),
            };
        }
        let rule = self.asked_for.take();
        let asked = self.tell(&permission, rule.as_ref());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_is_told_so_once_until_it_is_quiet() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        let mut ask = |millis: u64, times: usize| -> Vec<Paced> {
            let now = begun + Duration::from_millis(millis);
            (0..times).map(|_| pace.next(now)).collect()
        };
        let first = ask(0, 10_000);
        assert!(first[..200].iter().all(|one| *one == Paced::Fine));
        assert_eq!(first[200], Paced::First);
        assert!(first[201..].iter().all(|one| *one == Paced::More));
        assert!(ask(980, 100).iter().all(|one| *one == Paced::More));
        let second = ask(1_000, 100);
        assert!(second[..50].iter().all(|one| *one == Paced::Fine));
        assert_eq!((second[50], second[51]), (Paced::First, Paced::More));
        assert!(ask(60_000, 200).iter().all(|one| *one == Paced::Fine));
        assert_eq!(ask(60_000, 1), [Paced::First]);
        // As often as it may, for ever.
        for n in 0..1_000 {
            assert_eq!(ask(70_000 + 20 * n, 1), [Paced::Fine], "{n}");
        }
    }
}
