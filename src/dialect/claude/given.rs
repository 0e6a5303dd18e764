//! Messages that Claude was given, by their ids: it tells what becomes of each (`command_lifecycle`), and a turn of its own may come between.

use std::collections::VecDeque;

use super::{Claude, Json, Step};
use crate::dialect::{Joined, JoinedBy, TurnOutcome, Usage};

/// Messages that wait at a time.
const MOST: usize = 16;

/// Those that are not done with, oldest first.
#[derive(Debug, Default)]
pub(super) struct Given(VecDeque<One>);

#[derive(Debug)]
struct One {
    id: String,
    /// It has said that it has the message, so it will say when it begins with it.
    is_queued: bool,
    /// It has begun with it.
    is_started: bool,
}

impl Given {
    pub fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    pub fn put(&mut self, id: &str) {
        self.0.push_back(One {
            id: id.to_owned(),
            is_queued: false,
            is_started: false,
        });
    }

    fn get(&mut self, id: &str) -> Option<&mut One> {
        self.0.iter_mut().find(|one| one.id == id)
    }

    fn take(&mut self, id: &str) -> Option<One> {
        let at = self.0.iter().position(|one| one.id == id)?;
        self.0.remove(at)
    }

    /// What a turn that ends now was about, if it was taken for `message`: that waits still if it was never begun with.
    fn settle(&mut self, message: Option<&Joined>) -> Option<Joined> {
        let message = message?;
        let waits = self
            .get(&message.id)
            .is_some_and(|one| one.is_queued && !one.is_started);
        if waits {
            return None;
        }
        let one = self.take(&message.id);
        let by = match one.is_some_and(|one| one.is_started) {
            true => JoinedBy::Id,
            false => message.by,
        };
        Some(Joined {
            id: message.id.clone(),
            by,
        })
    }
}

impl Claude {
    /// What becomes of a message.
    pub(super) fn heard(&mut self, line: &Json, out: &mut Step) {
        let id = line.at("command_uuid").str();
        let joined = Joined {
            id: id.to_owned(),
            by: JoinedBy::Id,
        };
        let state = line.at("state").str();
        let Some(one) = self.given.get(id) else {
            if state == "started" {
                // One of its own.
                self.turns.begin(out);
            }
            return;
        };
        match state {
            "queued" => one.is_queued = true,
            "started" => {
                one.is_started = true;
                match self.turns.is_open() {
                    true => self.turns.is_about(Some(joined)),
                    false => self.turns.begin_about(Some(joined), out),
                }
            }
            // Its result tells more, if that is still to come.
            "completed" | "cancelled" if self.turns.is_open() => one.is_started = true,
            "completed" | "cancelled" => {
                self.given.take(id);
                self.turns.begin_about(Some(joined), out);
                let outcome = match state {
                    "completed" => TurnOutcome::Completed,
                    _ => TurnOutcome::Interrupted,
                };
                self.turns.end(outcome, None, Usage::default(), out);
            }
            _ => {}
        }
    }

    /// The open turn ends: it is known now what it was about.
    pub(super) fn settle_message(&mut self) {
        let message = self.given.settle(self.turns.message());
        self.turns.is_about(message);
    }
}
