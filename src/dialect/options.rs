use std::path::{Path, PathBuf};

use crate::base::Limits;

use super::{
    Dialect, Pointers, acp::Acp, claude::Claude, codex, letta::Letta, ndjson::Ndjson, opencode, plain::Plain, summary,
    watched::Watched,
};

/// Which protocol an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Lines of text.
    Plain,
    /// JSON objects, one a line, whose members [`Pointers`] name.
    Ndjson,
    /// Claude Code with `--input-format stream-json --output-format stream-json`.
    Claude,
    /// `codex exec --json`.
    Codex,
    /// `codex app-server`.
    CodexServer,
    /// `opencode run --format json`.
    Opencode,
    /// The events of `opencode serve`.
    OpencodeServer,
    /// Letta Code with `--input-format stream-json --output-format stream-json`.
    Letta,
    /// Letta Code with `-p --output-format stream-json`.
    LettaPrint,
    /// The Agent Client Protocol.
    Acp,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Kind] = &[
        Kind::Plain,
        Kind::Ndjson,
        Kind::Claude,
        Kind::Codex,
        Kind::CodexServer,
        Kind::Opencode,
        Kind::OpencodeServer,
        Kind::Letta,
        Kind::LettaPrint,
        Kind::Acp,
    ];

    /// As configurations name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Ndjson => "ndjson",
            Kind::Claude => "claude",
            Kind::Codex => "codex",
            Kind::CodexServer => "codex-app-server",
            Kind::Opencode => "opencode",
            Kind::OpencodeServer => "opencode-server",
            Kind::Letta => "letta",
            Kind::LettaPrint => "letta-print",
            Kind::Acp => "acp",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// Whether its protocol says how a session is begun or gone on with, and not its arguments.
    pub fn begins_threads(self) -> bool {
        matches!(self, Kind::CodexServer | Kind::OpencodeServer)
    }

    /// Whether what is said can be told in pieces, as it comes.
    pub fn tells_pieces(self) -> bool {
        matches!(
            self,
            Kind::Claude | Kind::CodexServer | Kind::OpencodeServer | Kind::Letta | Kind::LettaPrint | Kind::Acp
        )
    }

    /// A value that speaks it with one process.
    pub fn speaker(self, options: Options) -> Box<dyn Dialect> {
        let session = options.resume.clone().filter(|_| self.resumes_by_arguments());
        Box::new(Watched::new(self.fresh(options), session))
    }

    /// Whether its arguments say which session is gone on with, and not its protocol.
    fn resumes_by_arguments(self) -> bool {
        matches!(
            self,
            Kind::Claude | Kind::Codex | Kind::Opencode | Kind::Letta | Kind::LettaPrint
        )
    }

    fn fresh(self, options: Options) -> Box<dyn Dialect> {
        match self {
            Kind::Plain => Box::new(Plain::new(options)),
            Kind::Ndjson => Box::new(Ndjson::new(options)),
            Kind::Claude => Box::new(Claude::new(options)),
            Kind::Codex => Box::new(codex::Exec::new(options)),
            Kind::CodexServer => Box::new(codex::Server::new(options)),
            Kind::Opencode => Box::new(opencode::Run::new(options)),
            Kind::OpencodeServer => Box::new(opencode::Server::new(options)),
            Kind::Letta => Box::new(Letta::new(options, true)),
            Kind::LettaPrint => Box::new(Letta::new(options, false)),
            Kind::Acp => Box::new(Acp::new(options)),
        }
    }
}

/// How much of what an agent says is kept; from [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a line, in either direction.
    pub line_bytes: usize,
    /// Bytes of a text in an event.
    pub text_bytes: usize,
    /// Tool calls that are open at a time.
    pub calls: usize,
    /// Permissions, barriers and orders that wait for an answer.
    pub pending: usize,
    /// Commands that run through us, or have and were not let go.
    pub terminals: usize,
    /// Bytes of the output of each of them that are kept.
    pub terminal_bytes: usize,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Bounds {
            line_bytes: limits.agent_line_bytes,
            text_bytes: limits.agent_text_bytes,
            calls: limits.agent_calls,
            pending: limits.agent_pending,
            terminals: limits.agent_terminals,
            terminal_bytes: limits.agent_terminal_bytes,
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds::from(&Limits::default())
    }
}

/// What a dialect is to know of the agent that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The workspace, as the agent sees it: paths in it are told relative to it.
    pub root: PathBuf,
    /// How much is kept.
    pub bounds: Bounds,
    /// Make the agent wait for checkpoints, where it can be made to.
    pub barrier: bool,
    /// The agent's own name of a session that is to be gone on with, where the protocol takes it in a message and not in the arguments.
    pub resume: Option<String>,
    /// For [`Kind::Ndjson`].
    pub pointers: Pointers,
    /// How a session is begun, where the protocol takes it in a message and not in the arguments.
    pub thread: ThreadOptions,
    /// For [`Kind::Acp`]: files may be read and written through us; somebody carries out [`Order`](super::Order)s.
    pub offers_files: bool,
    /// For [`Kind::Acp`]: commands may be run through us.
    pub offers_terminals: bool,
}

/// How a session is begun; in the agent's own words, and its own default where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ThreadOptions {
    /// The model.
    pub model: Option<String>,
    /// When it asks for permission.
    pub approval_policy: Option<String>,
    /// What its own sandbox lets it do.
    pub sandbox: Option<String>,
    /// How somebody is logged in where that is wanted, by the agent's name of it.
    pub auth_method: Option<String>,
}

impl Options {
    /// For an agent in this directory: with barriers, a new session, the default limits.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Options {
            root: root.into(),
            bounds: Bounds::default(),
            barrier: true,
            resume: None,
            pointers: Pointers::default(),
            thread: ThreadOptions::default(),
            offers_files: false,
            offers_terminals: false,
        }
    }

    /// As the workspace knows a path.
    pub(super) fn relative(&self, path: &str) -> String {
        summary::relative(path, Path::new(&self.root))
    }
}
