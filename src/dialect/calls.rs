use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{Outcome, Source, Subject, ToolFinished, ToolStarted, json::head};

/// Bytes of an agent's id.
const ID: usize = 256;
/// Calls that are named as open beside another.
const CONCURRENT: usize = 16;
/// Ids that are remembered as done with.
const REMEMBERED: usize = 1024;

/// An id of the agent's as we keep it: those of real agents are short, and a long one stays itself as far as it goes.
pub(super) fn id(text: &str) -> String {
    head(text, ID).to_owned()
}

/// A tool call that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Call {
    pub id: String,
    pub tool: String,
    pub raw_tool: String,
    pub server: Option<String>,
    pub summary: String,
    /// What tells its input from others.
    pub input_sha: Option<String>,
    pub parent: Option<String>,
    /// It goes on beside the agent; by the agent's own name for that, if it has one.
    pub background: bool,
    pub task: Option<String>,
    /// That it goes on in the background was told.
    pub told: bool,
    /// Of what it was part, by the agent's own name for that.
    pub run: Option<String>,
    /// What is to be said of it when it has ended, if that is something else.
    pub after: Option<String>,
    pub paths: Vec<String>,
    /// All files that it is about to change, as the agent names them; none if there are too many to know them all.
    pub touches: Vec<String>,
    /// What it is given, where a question about it does not say that itself.
    pub given: Subject,
    /// Somebody did not allow it.
    pub denied: bool,
}

impl Call {
    pub fn started(&self) -> ToolStarted {
        ToolStarted {
            call: self.id.clone(),
            tool: self.tool.clone(),
            summary: self.summary.clone(),
            input_sha: self.input_sha.clone(),
            parent: self.parent.clone(),
            background: self.background,
        }
    }

    pub fn finished(self, outcome: Outcome, source: Source) -> ToolFinished {
        ToolFinished {
            call: self.id,
            tool: self.tool,
            raw_tool: self.raw_tool,
            server: self.server,
            summary: self.after.unwrap_or(self.summary),
            paths: self.paths,
            outcome,
            background: self.background,
            parent: self.parent,
            source,
            ..ToolFinished::default()
        }
    }
}

/// The calls that are open, and the ids of those that were.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    open: Vec<Call>,
    done: Seen,
    most: usize,
}

impl Calls {
    pub fn new(most: usize) -> Self {
        Calls {
            open: Vec::new(),
            done: Seen::default(),
            most: most.max(1),
        }
    }

    /// Opens a call. `false` if it is open or was (it is the same one, told again), or if too many are open: then only its end is told.
    pub fn open(&mut self, call: Call) -> bool {
        if self.open.len() >= self.most || self.get(&call.id).is_some() || self.done.has(&call.id) {
            return false;
        }
        self.open.push(call);
        true
    }

    pub fn get(&mut self, id: &str) -> Option<&mut Call> {
        self.open.iter_mut().find(|call| call.id == id)
    }

    pub fn by_task(&mut self, task: &str) -> Option<&mut Call> {
        self.open.iter_mut().find(|call| call.task.as_deref() == Some(task))
    }

    /// Closes a call. `None` if it was closed before; one that was never opened is closed as what `or` says.
    pub fn close(&mut self, id: &str, or: impl FnOnce() -> Call) -> Option<Call> {
        if let Some(at) = self.open.iter().position(|call| call.id == id) {
            self.done.see(id);
            return Some(self.open.remove(at));
        }
        self.done.see(id).then(or)
    }

    /// Whether a call of that id has ended.
    pub fn is_done(&self, id: &str) -> bool {
        self.done.has(id)
    }

    /// The ids of what is open besides.
    pub fn beside(&self, id: &str, parent: Option<&str>) -> Vec<String> {
        self.open
            .iter()
            .filter(|call| call.id != id && Some(call.id.as_str()) != parent)
            .take(CONCURRENT)
            .map(|call| call.id.clone())
            .collect()
    }

    /// Closes all that `which` says, in the order of their beginnings.
    pub fn close_those(&mut self, which: impl Fn(&Call) -> bool) -> Vec<Call> {
        let (closed, open) = std::mem::take(&mut self.open).into_iter().partition(|call| which(call));
        self.open = open;
        let closed: Vec<Call> = closed;
        for call in &closed {
            self.done.see(&call.id);
        }
        closed
    }

    /// Ends all that `which` says at once, as one event: nobody told of their ends.
    pub fn interrupt(&mut self, which: impl Fn(&Call) -> bool) -> Option<ToolFinished> {
        let mut calls = self.close_those(which).into_iter();
        let first = calls.next()?;
        Some(ToolFinished {
            with: calls.map(|call| call.id).collect(),
            ..first.finished(Outcome::Interrupted, Source::End)
        })
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Call> {
        self.open.iter()
    }
}

/// Ids that were seen lately, by their hash: a repeated one is found for as long as anybody repeats anything.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(VecDeque<u64>);

impl Seen {
    /// Remembers an id; `false` if it was seen before.
    pub fn see(&mut self, id: &str) -> bool {
        if self.has(id) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(hash(id));
        true
    }

    pub fn has(&self, id: &str) -> bool {
        self.0.contains(&hash(id))
    }
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}
