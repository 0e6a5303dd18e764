use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Subcommand, ValueEnum};

use crate::{
    checkpoint::{Checkpoint, ToolOutcome},
    cli::args::Place,
    server::sign_with,
    workspace::{Durability, Placement, SecretRules, Unchanged, WorkspaceOptions},
};

/// What can be done with the trail of a workspace.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Make the present state of a workspace a commit: what a tool has just done.
    Checkpoint(Box<Record>),
    /// Show what happened in a workspace, newest first.
    Log(Box<Log>),
    /// Show one checkpoint and what it changed.
    Show(Box<Show>),
    /// Show what differs between two checkpoints, or since the last one.
    Diff(Box<Diff>),
    /// Bring files of a checkpoint back, as a new checkpoint. Unsaved work is saved first; history is never rewritten.
    Restore(Box<Restore>),
    /// Take back what one checkpoint changed, as a new checkpoint, and keep what was done since.
    Undo(Box<Undo>),
    /// Make a branch at a checkpoint.
    Branch(Box<Branch>),
    /// Make one commit of many checkpoints, on a branch of its own, for people to read.
    Squash(Box<Squash>),
    /// Make checkpoints from the events of an agent: reads one event as JSON on standard input.
    #[command(subcommand)]
    Hook(Hook),
}

/// Which workspace.
#[derive(Debug, Args)]
pub(in crate::cli) struct At {
    #[command(flatten)]
    pub place: Place,
    /// The workspace: a directory in it, or REPO/WORKSPACE below --data [default: the current directory]
    #[arg(long, short, value_name = "W", env = "GITSTEAD_WORKSPACE")]
    pub workspace: Option<PathBuf>,
    /// Let a home directory or the root of the file system be a workspace
    #[arg(long)]
    pub any_root: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Record {
    #[command(flatten)]
    pub at: At,
    #[command(flatten)]
    pub how: How,
    /// The tool that was executed: Write, Bash, ...
    #[arg(long, value_name = "T")]
    pub tool: String,
    /// What it did, in a line
    #[arg(long, value_name = "S")]
    pub summary: String,
    /// Who worked; also the author of the commit
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// In which session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// In which turn of it
    #[arg(long, value_name = "N")]
    pub turn: Option<u64>,
    /// The agent's own id of the execution; may be given several times
    #[arg(long, value_name = "ID")]
    pub tool_use_id: Vec<String>,
    /// How the tool ended
    #[arg(long, value_name = "OUTCOME")]
    pub outcome: Option<Ended>,
    /// How long it took
    #[arg(long, value_name = "N")]
    pub duration_ms: Option<u64>,
    /// A trailer of your own; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub trailer: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Record {
    pub(super) fn checkpoint(&self) -> Checkpoint {
        let mut checkpoint = Checkpoint::after(&self.tool, &self.summary);
        if let Some(agent) = &self.agent {
            checkpoint = checkpoint.agent(agent);
        }
        if let Some(session) = &self.session {
            checkpoint = checkpoint.session(session);
        }
        if let Some(turn) = self.turn {
            checkpoint = checkpoint.turn(turn);
        }
        for id in &self.tool_use_id {
            checkpoint = checkpoint.tool_use(id);
        }
        if let Some(outcome) = self.outcome {
            checkpoint = checkpoint.outcome(outcome.into());
        }
        if let Some(millis) = self.duration_ms {
            checkpoint = checkpoint.duration(Duration::from_millis(millis));
        }
        for (key, value) in &self.trailer {
            checkpoint = checkpoint.trailer(key, value);
        }
        checkpoint
    }
}

/// How checkpoints are made.
#[derive(Debug, Args)]
pub(in crate::cli) struct How {
    /// Record it beside the branch, under refs/gitstead/checkpoints/; branch, HEAD and index stay as they are
    #[arg(long)]
    pub shadow: bool,
    /// Record nothing when no file has changed
    #[arg(long)]
    pub skip_unchanged: bool,
    /// Whether the checkpoint survives a loss of power: from the moment it is made, from the end of this command, or once the system has written [default: batched]
    #[arg(long, value_name = "WHEN")]
    pub durability: Option<Durable>,
    /// Record files that look like secrets, too
    #[arg(long)]
    pub no_secret_rules: bool,
    /// Files over so many bytes are left out
    #[arg(long, value_name = "BYTES")]
    pub max_file_bytes: Option<u64>,
    /// How many files that are not ignored a workspace may have
    #[arg(long, value_name = "N")]
    pub max_files: Option<usize>,
    /// Sign with the private SSH key in this file
    #[arg(long, value_name = "FILE", env = "GITSTEAD_SIGNING_KEY")]
    pub signing_key: Option<PathBuf>,
}

impl How {
    pub(super) fn lay_over(&self, options: &mut WorkspaceOptions) -> anyhow::Result<()> {
        if self.shadow {
            options.placement = Placement::Shadow;
        }
        if self.skip_unchanged {
            options.unchanged = Unchanged::Skip;
        }
        match self.durability {
            None => {}
            Some(Durable::Each) => options.durability = Durability::Each,
            Some(Durable::Batched) => options.durability = Durability::Batched,
            Some(Durable::Off) => options.durability = Durability::Off,
        }
        if self.no_secret_rules {
            options.secrets = SecretRules::none();
        }
        if let Some(bytes) = self.max_file_bytes {
            options.file_bytes = bytes;
        }
        if let Some(files) = self.max_files {
            options.files = files;
        }
        if let Some(path) = &self.signing_key {
            sign_with(path, options).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum Durable {
    Each,
    Batched,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum Ended {
    Ok,
    Failed,
    Interrupted,
}

impl From<Ended> for ToolOutcome {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Ok => ToolOutcome::Ok,
            Ended::Failed => ToolOutcome::Failed,
            Ended::Interrupted => ToolOutcome::Interrupted,
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not KEY=VALUE".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Log {
    #[command(flatten)]
    pub at: At,
    /// Where to begin: a branch, HEAD~3, an id or the beginning of one [default: HEAD]
    pub revision: Option<String>,
    /// Only checkpoints of this tool
    #[arg(long, value_name = "T")]
    pub tool: Option<String>,
    /// Only checkpoints of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Only checkpoints of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Only what changed this file or something in this directory
    #[arg(long, value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Only what changed any file
    #[arg(long)]
    pub changed: bool,
    /// Also commits that are not checkpoints, and what came in by merges
    #[arg(long)]
    pub all: bool,
    /// The checkpoints beside the branch (checkpoint --shadow)
    #[arg(long, conflicts_with = "revision")]
    pub shadow: bool,
    /// At most so many, up to 1000
    #[arg(short = 'n', value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    pub number: usize,
    /// Go on where an earlier page of the same log ended
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    #[command(flatten)]
    pub at: At,
    /// Which checkpoint
    #[arg(default_value = "HEAD")]
    pub checkpoint: String,
    /// Show the lines that changed
    #[arg(long, short)]
    pub patch: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    #[command(flatten)]
    pub at: At,
    /// From where [default: HEAD, the last checkpoint]
    pub from: Option<String>,
    /// To where [default: the files as they are now]
    pub to: Option<String>,
    /// Only these files and directories
    #[arg(last = true, value_name = "PATHS")]
    pub paths: Vec<PathBuf>,
    /// Compare with the last checkpoint beside the branch
    #[arg(long, conflicts_with = "from")]
    pub shadow: bool,
    /// Show how many lines came and went, not which
    #[arg(long)]
    pub stat: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Restore {
    #[command(flatten)]
    pub at: At,
    #[command(flatten)]
    pub how: How,
    /// Which checkpoint
    pub checkpoint: String,
    /// Only these files and directories [default: all]
    pub paths: Vec<PathBuf>,
    /// Only say what would change
    #[arg(long, action = ArgAction::SetTrue)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Undo {
    #[command(flatten)]
    pub at: At,
    #[command(flatten)]
    pub how: How,
    /// Which checkpoint
    pub checkpoint: String,
    /// Only say what would change
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Branch {
    #[command(flatten)]
    pub at: At,
    /// The name of the new branch
    pub name: String,
    /// Where it begins
    #[arg(default_value = "HEAD")]
    pub checkpoint: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Squash {
    #[command(flatten)]
    pub at: At,
    /// The branch that the commit goes on; a new one, unless --append is given
    pub branch: String,
    /// The last commit before the range [default: the range begins with the first commit]
    #[arg(long, value_name = "CHECKPOINT")]
    pub from: Option<String>,
    /// The last commit of the range
    #[arg(long, value_name = "CHECKPOINT", default_value = "HEAD")]
    pub to: String,
    /// The commit that it is put on [default: the tip of the branch with --append, else --from]
    #[arg(long, value_name = "COMMIT")]
    pub onto: Option<String>,
    /// Continue the branch
    #[arg(long)]
    pub append: bool,
    /// The message [default: the subjects of what changed files]
    #[arg(long, short, value_name = "TEXT", value_parser = some_text)]
    pub message: Option<String>,
    /// Author and committer
    #[arg(long, value_name = "NAME <EMAIL>", value_parser = person)]
    pub author: Option<(String, String)>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn person(text: &str) -> Result<(String, String), String> {
    let parts = text.strip_suffix('>').and_then(|text| text.split_once('<'));
    match parts.map(|(name, email)| (name.trim(), email.trim())) {
        Some((name, email)) if !name.is_empty() && !email.is_empty() => Ok((name.to_owned(), email.to_owned())),
        _ => Err("it is not NAME <EMAIL>".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Hook {
    /// For the hooks PostToolUse, PostToolUseFailure, PostToolBatch, Stop, SubagentStop and SessionEnd of Claude Code (and of agents whose events look the same).
    ClaudeCode(Box<HookOf>),
    /// For the hooks PostToolUse and Stop of Codex.
    Codex(Box<HookOf>),
    /// For the hooks PostToolUse and Stop of Letta Code.
    Letta(Box<HookOf>),
    /// Write the hooks into an agent's settings, after showing what will be written. What is there stays.
    Install(Install),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HookOf {
    #[command(flatten)]
    pub(super) at: At,
    #[command(flatten)]
    pub(super) how: How,
    /// Who works; also the author of the commits [default: claude-code, codex, letta]
    #[arg(long, value_name = "NAME")]
    pub(super) agent: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Install {
    /// Whose settings
    pub(super) agent: Hooked,
    /// The settings of the user, for all projects
    #[arg(long, conflicts_with_all = ["project", "settings"])]
    pub(super) user: bool,
    /// The project whose settings they are [default: the current directory]
    #[arg(long, value_name = "DIR", conflicts_with = "settings")]
    pub(super) project: Option<PathBuf>,
    /// Another file
    #[arg(long, value_name = "FILE")]
    pub(super) settings: Option<PathBuf>,
    /// How the agent's shell calls gitstead [default: gitstead if that is this program, else its path]
    #[arg(long, value_name = "COMMAND")]
    pub(super) command: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
}

/// An agent with hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Hooked {
    ClaudeCode,
    Codex,
    Letta,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a number".to_owned()),
    }
}

fn some_text(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it says nothing".to_owned()),
        _ => Ok(text.to_owned()),
    }
}
