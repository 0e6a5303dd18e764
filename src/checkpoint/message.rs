use std::{fmt::Write as _, time::Duration};

use bstr::{BStr, BString, ByteSlice};

/// Bytes of a subject line, the tool's name included.
const SUBJECT_BYTES: usize = 200;
/// Bytes of a tool's name.
const TOOL_BYTES: usize = 80;
/// Bytes of a summary in the body.
const SUMMARY_BYTES: usize = 16 << 10;
/// Bytes of one trailer's value.
const VALUE_BYTES: usize = 4 << 10;
/// Bytes of a trailer's key.
const KEY_BYTES: usize = 80;
/// Trailers of one message.
const TRAILERS: usize = 1_000;

const AGENT: &str = "Agent";
const SESSION: &str = "Session";
const TURN: &str = "Turn";
const TOOL_USE: &str = "Tool-Use-Id";
const OUTCOME: &str = "Outcome";
const DURATION: &str = "Duration-Ms";
const MARK: &str = "Gitstead-Checkpoint";
/// Keys that only the builder's own methods write.
const RESERVED: [&str; 7] = [AGENT, SESSION, TURN, TOOL_USE, OUTCOME, DURATION, MARK];
/// Stands before a key of a caller that is one of ours.
const FOREIGN: &str = "X-";
const INITIAL: &str = "Initial task: ";
const CUT: &str = "…";

/// How a tool execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolOutcome {
    /// It did what it was asked.
    Ok,
    /// It said that it could not.
    Failed,
    /// Somebody stopped it before its end.
    Interrupted,
    /// It goes on in the background; there is another checkpoint when it has ended.
    Started,
}

impl ToolOutcome {
    /// The word in the trailer `Outcome`.
    pub fn as_str(self) -> &'static str {
        match self {
            ToolOutcome::Ok => "ok",
            ToolOutcome::Failed => "failed",
            ToolOutcome::Interrupted => "interrupted",
            ToolOutcome::Started => "background-started",
        }
    }

    /// The outcome of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            ToolOutcome::Ok,
            ToolOutcome::Failed,
            ToolOutcome::Interrupted,
            ToolOutcome::Started,
        ]
        .into_iter()
        .find(|outcome| outcome.as_str() == word)
    }
}

/// What is to be written about one tool execution. Text of any kind is taken and folded into what a commit message can hold; see [`compose`].
///
/// ```
/// use gitstead::checkpoint::{Checkpoint, ToolOutcome, compose};
///
/// let checkpoint = Checkpoint::after("Write", "Created report.md")
///     .agent("research")
///     .outcome(ToolOutcome::Ok);
/// assert_eq!(
///     compose(&checkpoint),
///     "[Write] Created report.md\n\nAgent: research\nOutcome: ok\nGitstead-Checkpoint: 1\n"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    tool: Option<String>,
    summary: String,
    agent: Option<String>,
    session: Option<String>,
    turn: Option<u64>,
    tool_uses: Vec<String>,
    outcome: Option<ToolOutcome>,
    duration: Option<Duration>,
    trailers: Vec<(String, String)>,
    paths: Vec<BString>,
}

impl Checkpoint {
    /// A tool was executed; `summary` says in a line what it did. A tool without a name leaves only the summary.
    pub fn after(tool: impl Into<String>, summary: impl Into<String>) -> Self {
        let tool: String = tool.into().replace('[', "(").replace(']', ")");
        let (tool, _) = cut(&fold(&tool), TOOL_BYTES);
        Checkpoint {
            tool: (!tool.is_empty()).then_some(tool),
            ..Self::message(summary)
        }
    }

    /// The first commit of a workspace: `Initial task: <text>`.
    pub fn initial(task: impl Into<String>) -> Self {
        Self::message(format!("{INITIAL}{}", task.into()))
    }

    /// A subject of the caller's own. One that looks like a tool's (`[Tool] summary`) is read back as one.
    pub fn message(subject: impl Into<String>) -> Self {
        let (summary, _) = cut(&fold(&subject.into()), SUMMARY_BYTES);
        Checkpoint {
            summary,
            ..Self::default()
        }
    }

    /// Who worked. Also the author of the commit.
    pub fn agent(mut self, name: impl Into<String>) -> Self {
        self.agent = value(name);
        self
    }

    /// In which session.
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.session = value(id);
        self
    }

    /// In which turn of the session, counted as the caller counts.
    pub fn turn(mut self, turn: u64) -> Self {
        self.turn = Some(turn);
        self
    }

    /// The agent's own id of the execution. Called again it adds one: a checkpoint may stand for several executions.
    pub fn tool_use(mut self, id: impl Into<String>) -> Self {
        if self.tool_uses.len() < TRAILERS {
            self.tool_uses.extend(value(id));
        }
        self
    }

    /// How the tool ended.
    pub fn outcome(mut self, outcome: ToolOutcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// How long the tool took; kept in whole milliseconds.
    pub fn duration(mut self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.duration = Some(Duration::from_millis(millis));
        self
    }

    /// A trailer of the caller's own. Characters of the key other than ASCII letters, digits and `-` become `-`; one of Gitstead's own keys gets `X-` put before it.
    /// Without a value left after folding, or beyond a thousand of them, there is no trailer.
    pub fn trailer(mut self, key: impl AsRef<str>, text: impl Into<String>) -> Self {
        let mut key: String = key
            .as_ref()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(64)
            .collect();
        if is_reserved(&key) {
            key.insert_str(0, FOREIGN);
        }
        if let Some(value) = value(text)
            && !key.is_empty()
            && self.trailers.len() < TRAILERS
        {
            self.trailers.push((key, value));
        }
        self
    }

    /// Paths, relative to the worktree's root, that the tool is known to have changed. They help to find changes early and never hide others.
    pub fn paths(mut self, hints: impl IntoIterator<Item = impl Into<BString>>) -> Self {
        self.paths.extend(hints.into_iter().map(Into::into));
        self
    }

    /// The name given with [`agent`](Self::agent), folded.
    pub fn agent_name(&self) -> Option<&str> {
        self.agent.as_deref()
    }

    /// The paths given with [`paths`](Self::paths).
    pub fn path_hints(&self) -> &[BString] {
        &self.paths
    }

    pub(super) fn subject(&self) -> String {
        match &self.tool {
            Some(tool) => format!("[{tool}] {}", self.summary).trim_end().to_owned(),
            None => self.summary.clone(),
        }
    }
}

/// What the message of a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CheckpointMessage {
    /// The tool, of `[Tool] summary`.
    pub tool: Option<String>,
    /// The rest of the subject, whole also where the subject was cut.
    pub summary: String,
    /// Who worked.
    pub agent: Option<String>,
    /// In which session.
    pub session: Option<String>,
    /// In which turn of it.
    pub turn: Option<u64>,
    /// The agent's ids of the tool executions.
    pub tool_uses: Vec<String>,
    /// How the tool ended.
    pub outcome: Option<ToolOutcome>,
    /// How long it took, in whole milliseconds.
    pub duration: Option<Duration>,
    /// All other trailers, in their order.
    pub trailers: Vec<(String, String)>,
}

impl CheckpointMessage {
    /// The task, of `Initial task: <text>`.
    pub fn task(&self) -> Option<&str> {
        match self.tool {
            None => self.summary.strip_prefix(INITIAL),
            Some(_) => None,
        }
    }

    /// The first trailer of that key, which is none of Gitstead's own. Case does not matter.
    pub fn trailer(&self, key: &str) -> Option<&str> {
        let found = self.trailers.iter().find(|(have, _)| have.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str())
    }

    /// About how many bytes it holds.
    pub(super) fn weight(&self) -> usize {
        let own = [&self.tool, &self.agent, &self.session];
        let texts = own.into_iter().flatten().chain([&self.summary]).chain(&self.tool_uses);
        let others = self.trailers.iter().flat_map(|(key, value)| [key, value]);
        texts.chain(others).map(|text| text.len() + 24).sum()
    }
}

/// The commit message of a checkpoint: a subject of one line, then trailers.
///
/// Control characters, line ends and runs of white space become single spaces everywhere. A subject longer than 200 bytes is cut where a character ends and
/// followed by `…`; the whole summary is then a paragraph of its own. `Gitstead-Checkpoint: 1` is always the last trailer: checkpoints are recognised by it.
pub fn compose(checkpoint: &Checkpoint) -> BString {
    let mut out = String::new();
    let subject = checkpoint.subject();
    let (short, is_cut) = cut(&subject, SUBJECT_BYTES);
    out.push_str(if short.is_empty() { "(no summary)" } else { &short });
    if is_cut {
        out.push_str("\n\n");
        out.push_str(&checkpoint.summary);
    }
    out.push_str("\n\n");
    let mut trailer = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{key}: {value}");
    };
    if let Some(agent) = &checkpoint.agent {
        trailer(AGENT, agent);
    }
    if let Some(session) = &checkpoint.session {
        trailer(SESSION, session);
    }
    if let Some(turn) = &checkpoint.turn {
        trailer(TURN, turn);
    }
    for id in &checkpoint.tool_uses {
        trailer(TOOL_USE, id);
    }
    if let Some(outcome) = checkpoint.outcome {
        trailer(OUTCOME, &outcome.as_str());
    }
    if let Some(duration) = checkpoint.duration {
        trailer(DURATION, &duration.as_millis());
    }
    for (key, value) in &checkpoint.trailers {
        trailer(key, value);
    }
    trailer(MARK, &1);
    out.into()
}

/// Reads the message of a checkpoint; `None` when it is none, for lack of the trailer `Gitstead-Checkpoint`. What [`compose`] wrote is understood completely; what
/// somebody changed by hand is understood as far as it goes.
pub fn parse(message: &BStr) -> Option<CheckpointMessage> {
    let text = message.to_str_lossy();
    let text = text.trim_end();
    let (head, last) = text.rsplit_once("\n\n")?;
    let mut parsed = CheckpointMessage::default();
    let mut is_checkpoint = false;
    for (key, value) in last.lines().filter_map(trailer_of) {
        let (value, _) = cut(value, VALUE_BYTES);
        let own = RESERVED.iter().find(|own| own.eq_ignore_ascii_case(key));
        let slot = match own.copied() {
            Some(AGENT) => &mut parsed.agent,
            Some(SESSION) => &mut parsed.session,
            Some(TURN) => {
                parsed.turn = parsed.turn.or(value.parse().ok());
                continue;
            }
            Some(TOOL_USE) => {
                if parsed.tool_uses.len() < TRAILERS {
                    parsed.tool_uses.push(value);
                }
                continue;
            }
            Some(OUTCOME) => {
                parsed.outcome = parsed.outcome.or(ToolOutcome::from_word(&value));
                continue;
            }
            Some(DURATION) => {
                let millis = value.parse().ok().map(Duration::from_millis);
                parsed.duration = parsed.duration.or(millis);
                continue;
            }
            Some(_) => {
                is_checkpoint = true;
                continue;
            }
            None => {
                if parsed.trailers.len() < TRAILERS {
                    let (key, _) = cut(key, KEY_BYTES);
                    parsed.trailers.push((key, value));
                }
                continue;
            }
        };
        slot.get_or_insert(value);
    }
    if !is_checkpoint {
        return None;
    }
    let (subject, body) = head.split_once("\n\n").unwrap_or((head, ""));
    let subject = subject.lines().next().unwrap_or_default();
    let (tool, summary) = match subject.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((tool, summary)) if !tool.is_empty() && (summary.is_empty() || summary.starts_with(' ')) => {
            (Some(tool.to_owned()), summary.trim_start())
        }
        _ => (None, subject),
    };
    parsed.tool = tool.map(|tool| cut(&tool, TOOL_BYTES).0);
    let whole = body.lines().next().unwrap_or_default();
    parsed.summary = match summary.strip_suffix(CUT) {
        Some(stem) if !whole.is_empty() && whole.starts_with(stem) => whole.to_owned(),
        _ => summary.to_owned(),
    };
    parsed.summary = cut(&parsed.summary, SUMMARY_BYTES).0;
    Some(parsed)
}

/// The subject of any commit message: its first paragraph, folded to one line.
pub fn subject_of(message: &BStr) -> String {
    let text = message.to_str_lossy();
    let text = text.trim_start_matches('\n');
    fold(text.split("\n\n").next().unwrap_or_default())
}

fn is_reserved(key: &str) -> bool {
    RESERVED.iter().any(|own| own.eq_ignore_ascii_case(key))
}

fn trailer_of(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_key.then_some((key, value.trim()))
}

fn value(text: impl Into<String>) -> Option<String> {
    let (text, _) = cut(&fold(&text.into()), VALUE_BYTES);
    (!text.is_empty()).then_some(text)
}

/// One line: control characters, characters that turn the direction of text, and white space become single spaces, none at the ends.
fn fold(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for word in text.split(|c: char| c.is_whitespace() || c.is_control() || turns(c)) {
        if !word.is_empty() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
        }
    }
    out
}

/// At most `most` bytes of `text`, and whether there were more. What is cut ends in `…`.
fn cut(text: &str, most: usize) -> (String, bool) {
    if text.len() <= most {
        return (text.to_owned(), false);
    }
    let mut end = most - CUT.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (format!("{}{CUT}", text[..end].trim_end()), true)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
