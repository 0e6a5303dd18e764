//! What is said to an agent and what it wants to be allowed, as values.

/// Something that somebody says to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserMessage<'a> {
    /// Our name of it, a UUID: some agents want it to be one.
    pub id: &'a str,
    /// What is said.
    pub text: &'a str,
}

/// The message that a turn is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// [`UserMessage::id`].
    pub id: String,
    /// How that is known.
    pub by: JoinedBy,
}

/// How it is known which message a turn is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JoinedBy {
    /// The agent has named the message, or the turn that it began for it.
    Id,
    /// It has not: the oldest message that waited is taken for it.
    Order,
}

impl JoinedBy {
    /// The word for events.
    pub fn as_str(self) -> &'static str {
        match self {
            JoinedBy::Id => "id",
            JoinedBy::Order => "order",
        }
    }
}

/// Something that an agent wants to be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permission {
    /// For [`Dialect::permit`](super::Dialect::permit).
    pub request: String,
    /// The call that waits, if the agent says which.
    pub call: Option<String>,
    /// As a checkpoint would name it.
    pub tool: String,
    /// As the agent names it, and rules do: of a tool of the Model Context Protocol with its server (`mcp__server__tool`). At most 256 bytes.
    pub name: String,
    /// What it is about, whole, for rules. May hold secrets.
    pub subject: Subject,
    /// What it is about, in a line without secrets.
    pub summary: String,
    /// What the tool was given, as JSON, cut at `Limits::agent_text_bytes`: whoever decides has to see it. May hold secrets.
    pub input: String,
    /// It was answered with no at once, since too many wait for an answer already: nobody is to answer it any more.
    pub is_refused: bool,
    /// It offers to remember the answer: [`Decision::AllowAlways`] means something.
    pub remembers: bool,
}

/// Why a permission is not waited for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gone {
    /// The agent does not want to know any more, or somebody has told it elsewhere.
    Withdrawn,
    /// Somebody has interrupted the agent: the question was answered with no.
    Interrupted,
    /// The agent has ended.
    Ended,
}

impl Gone {
    /// The word for events.
    pub fn as_str(self) -> &'static str {
        match self {
            Gone::Withdrawn => "withdrawn",
            Gone::Interrupted => "interrupted",
            Gone::Ended => "ended",
        }
    }
}

/// What a permission is about, in the agent's words and not shortened; what may not be all of it is [`Unknown`](Self::Unknown).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Subject {
    /// The agent does not say, or not in a way that is understood.
    #[default]
    Unknown,
    /// Lines for a shell, all of which are executed.
    Commands(Vec<NamedCommand>),
    /// Files and directories, all of which are used.
    Paths(Vec<NamedPath>),
    /// Directories: what is below them is used, too. From the first part on in which a character of a pattern is (`src/*.rs`), files below what is before it.
    Below(Vec<NamedPath>),
    /// Anything else that has a name: an address.
    Text(String),
    /// This, and more that changes what it means and cannot be compared with anything.
    Part(Box<Subject>),
}

/// A line for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedCommand {
    /// As the agent has written it.
    pub written: String,
    /// What a shell is given to execute: of `bash -lc '…'` what is in it, else the same.
    pub line: String,
}

/// A path, by its letters alone: nothing is looked at, so links are not followed. `.` and `..` are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    /// Relative to the workspace, `.` for itself; absolute outside of it.
    pub path: String,
    /// Absolute.
    pub absolute: String,
}

/// An answer to a [`Permission`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// This once.
    Allow,
    /// And what is like it, for as long as this session lasts. Where the agent cannot remember, this once.
    AllowAlways,
    /// No.
    Deny {
        /// What the agent is told.
        reason: String,
        /// And the turn is to end, too.
        stop: bool,
    },
}
