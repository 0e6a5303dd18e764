use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{base::Access, server::Overrides};

/// A git server in one binary: no git, no configuration.
#[derive(Debug, Parser)]
#[command(name = "gitstead", version, about, max_term_width = 100, propagate_version = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve repositories over HTTP.
    Serve(Box<Serve>),
    /// Create, list, show, delete and rename repositories on this machine.
    Repo(Repo),
    /// Create, list, show and remove the directories in which agents work.
    Workspace(Workspace),
    /// Pack loose objects and small packs, beside a running server or without one.
    Maintain(Maintain),
    /// Start agents next to the server, talk to them, look at what they do, and stop them.
    Agent(Box<super::agent::Agent>),
    /// Have conversations with agents: ask, see what they do, answer what they want to be allowed.
    Session(Box<super::session::Session>),
    /// The trail of a workspace.
    #[command(flatten)]
    Trail(super::trail::Command),
    /// Make access tokens.
    #[command(subcommand)]
    Token(Token),
    /// Measure git servers, this one or others.
    #[command(subcommand)]
    Bench(Bench),
    /// Tools for looking at git's wire.
    #[command(subcommand)]
    Debug(Debug),
}

#[derive(Debug, Subcommand)]
pub(super) enum Bench {
    /// Ask servers what clients ask them, and print how long the answers take.
    ///
    /// Servers take turns within each workload; with several, the first is what the others are compared with. What clients do with an answer is not measured.
    Serve(BenchServe),
}

#[derive(Debug, Args)]
pub(super) struct BenchServe {
    /// Repositories, such as http://127.0.0.1:8080/repos/demo
    #[arg(value_name = "URL", required = true)]
    pub urls: Vec<String>,
    /// Rounds, of which the best counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Small requests in a round
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub requests: u32,
    /// Clones at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: u32,
    /// Token to send
    #[arg(long, value_name = "TOKEN", env = "GITSTEAD_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// Where things are: understood by every command that touches repositories.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Directory for everything the server keeps [default: ~/.local/share/gitstead]
    #[arg(long, value_name = "DIR", env = "GITSTEAD_DATA", global = true)]
    pub data: Option<PathBuf>,
    /// Directory of repositories, nested or not, bare or not, made by anyone [default: <data>/repos]
    #[arg(long, value_name = "DIR", env = "GITSTEAD_REPOS", global = true)]
    pub repos: Option<PathBuf>,
    /// Configuration file [default: <data>/gitstead.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "GITSTEAD_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// What to log to standard error, as a tracing filter: error, warn, info, debug, gitstead=trace, ...
    #[arg(long, value_name = "FILTER", env = "GITSTEAD_LOG", global = true)]
    pub log: Option<String>,
}

impl Place {
    pub fn overrides(&self) -> Overrides {
        Overrides {
            data: self.data.clone(),
            repos: self.repos.clone(),
            config: self.config.clone(),
            log: self.log.clone(),
            ..Overrides::default()
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub place: Place,
    /// Address to listen on; port 0 takes a free one, and the first line of standard output says which [default: 127.0.0.1:8080, for Letta 127.0.0.1:8285]
    #[arg(long, value_name = "ADDR", env = "GITSTEAD_LISTEN")]
    pub listen: Option<String>,
    /// Serve the memories of Letta's agents, as the Letta server and letta-code ask for them, from BASE/ORGANIZATION/AGENT/repo.git [default: ~/.letta/memfs/repository]
    #[arg(long, value_name = "BASE", env = "GITSTEAD_LETTA_MEMFS", num_args = 0..=1)]
    pub letta_memfs: Option<Option<PathBuf>>,
    /// Path before repository names in URLs [default: /repos]
    #[arg(long, value_name = "PATH", env = "GITSTEAD_URL_PREFIX")]
    pub url_prefix: Option<String>,
    /// Serve only repositories that contain a file git-daemon-export-ok
    #[arg(long, value_name = "BOOL", env = "GITSTEAD_REQUIRE_EXPORT_OK", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub require_export_ok: Option<bool>,
    /// Serve the refs of this git namespace only, as GIT_NAMESPACE does
    #[arg(long, value_name = "NS", env = "GITSTEAD_NAMESPACE")]
    pub namespace: Option<String>,
    /// Whether a push to a name that does not exist creates the repository [default: true]
    #[arg(long, value_name = "BOOL", env = "GITSTEAD_CREATE_ON_PUSH", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub create_on_push: Option<bool>,
    /// Whether repositories are packed in the background when they have many loose objects or small packs [default: true]
    #[arg(long, value_name = "BOOL", env = "GITSTEAD_MAINTENANCE", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub maintenance: Option<bool>,
    /// Let anyone read where tokens or a user header are configured
    #[arg(long, value_name = "BOOL", env = "GITSTEAD_ANONYMOUS_READ", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub anonymous_read: Option<bool>,
    /// Take the user from this header of requests that come from loopback, where a proxy of yours sets it
    #[arg(long, value_name = "HEADER", env = "GITSTEAD_TRUSTED_USER_HEADER")]
    pub trusted_user_header: Option<String>,
    /// Without tokens, listen on an address that is not loopback: everyone who can reach it may then fetch and push
    #[arg(long, env = "GITSTEAD_INSECURE_OPEN")]
    pub insecure_open: bool,
}

impl Serve {
    pub fn overrides(&self) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            url_prefix: self.url_prefix.clone(),
            require_export_ok: self.require_export_ok,
            namespace: self.namespace.clone(),
            create_on_push: self.create_on_push,
            maintenance: self.maintenance,
            anonymous_read: self.anonymous_read,
            trusted_user_header: self.trusted_user_header.clone(),
            insecure_open: self.insecure_open,
            letta_memfs: self.letta_memfs.clone(),
            ..self.place.overrides()
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Repo {
    #[command(flatten)]
    pub place: Place,
    /// Print JSON, as the HTTP API does
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: RepoCommand,
}

#[derive(Debug, Args)]
pub(super) struct Maintain {
    #[command(flatten)]
    pub place: Place,
    /// The name of a repository
    #[arg(value_name = "REPO", required_unless_present = "all", conflicts_with = "all")]
    pub name: Option<String>,
    /// Every repository
    #[arg(long)]
    pub all: bool,
    /// Put everything into one pack and look for deltas anew: slow, and as small as it gets
    #[arg(long)]
    pub full: bool,
    /// With --full: drop objects that nothing has referred to for so long ('2 weeks', 'now', 'never'), instead of what gc.pruneExpire says
    #[arg(long, value_name = "AGE", requires = "full")]
    pub expire: Option<String>,
    /// Leave alone what has only a few loose objects and packs, as the server does
    #[arg(long, conflicts_with = "full")]
    pub auto: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum RepoCommand {
    /// Create an empty bare repository.
    Create {
        /// Its name: segments of letters, digits, '.', '_' and '-'
        name: String,
        /// The hash of its objects [default: object_format of gitstead.toml, or sha1]
        #[arg(long, value_name = "FORMAT")]
        object_format: Option<ObjectFormat>,
        /// The branch HEAD names [default: default_branch of gitstead.toml, or main]
        #[arg(long, value_name = "BRANCH")]
        default_branch: Option<String>,
        /// A line about what it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List the names of all repositories.
    List,
    /// Show one repository.
    Show {
        /// Its name
        name: String,
    },
    /// Delete a bare repository, at once and for good.
    Delete {
        /// Its name
        name: String,
    },
    /// Give a bare repository another name.
    Rename {
        /// The present name
        name: String,
        /// The new name
        new: String,
    },
    /// Make HEAD name another branch.
    SetHead {
        /// The name of the repository
        name: String,
        /// The branch
        branch: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Workspace {
    #[command(flatten)]
    pub place: Place,
    /// Print JSON, as the HTTP API does
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: WorkspaceCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum WorkspaceCommand {
    /// Create a workspace: a directory with files, on a branch of its own. Without --task, --from, --at and --fork it begins where the repository is.
    Create {
        /// The repository it belongs to
        repository: String,
        /// Its name: letters, digits, '.', '_' and '-'
        name: String,
        /// Begin empty, with a first commit that says what is to be done; makes the repository if it is not there
        #[arg(long, value_name = "TEXT", conflicts_with_all = ["from", "at", "fork"], value_parser = clap::builder::NonEmptyStringValueParser::new())]
        task: Option<String>,
        /// Begin on this branch, or with --branch on a new one from there
        #[arg(long, value_name = "BRANCH", conflicts_with_all = ["at", "fork"])]
        from: Option<String>,
        /// Begin at this commit
        #[arg(long, value_name = "COMMIT")]
        at: Option<String>,
        /// Begin with a new repository that has what this one has
        #[arg(long, value_name = "REPOSITORY")]
        fork: Option<String>,
        /// Its branch [default: the default branch for the first one, else its own name]
        #[arg(long, value_name = "BRANCH")]
        branch: Option<String>,
        /// The hash of the objects of a repository that is made [default: object_format of gitstead.toml, or sha1]
        #[arg(long, value_name = "FORMAT")]
        object_format: Option<ObjectFormat>,
    },
    /// List the workspaces of a repository: name, branch, state, path. Without one, those of all repositories: REPO/WORKSPACE, branch, state, path.
    List {
        /// The repository [default: all of them]
        repository: Option<String>,
    },
    /// Show one workspace.
    Show {
        /// The repository it belongs to
        repository: String,
        /// Its name
        name: String,
    },
    /// Remove a workspace. Its branch stays, and with it what was recorded.
    Remove {
        /// The repository it belongs to
        repository: String,
        /// Its name
        name: String,
        /// What happens if there is work in it that is in no commit
        #[arg(long, value_name = "WHAT", default_value = "refuse")]
        unsaved: UnsavedWork,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum UnsavedWork {
    /// The workspace stays
    Refuse,
    /// It becomes a last commit on the workspace's branch
    Checkpoint,
    /// It is lost
    Discard,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ObjectFormat {
    Sha1,
    Sha256,
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token, print it once, and print what to add to gitstead.toml.
    New {
        /// What to call it in gitstead.toml and in logs
        #[arg(long, value_name = "NAME", default_value = "token")]
        name: String,
        /// Which repositories it is for: 'team/app', 'team/*', '**'; may be given several times
        #[arg(long, value_name = "PATTERN", default_value = "**")]
        repos: Vec<String>,
        /// What it may do
        #[arg(long, value_name = "ACCESS", default_value = "read", value_parser = access)]
        access: Access,
    },
}

fn access(text: &str) -> Result<Access, String> {
    text.parse()
        .map_err(|error: crate::base::AccessError| error.to_string())
}

#[derive(Debug, Subcommand)]
pub(super) enum Debug {
    /// Show a stream of pkt-lines from standard input as text.
    PktLine,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::server::Config;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    #[test]
    fn the_sidecar_of_letta_listens_where_letta_looks_for_it() {
        let read = |words: &[&str]| {
            let line = Line::try_parse_from([&["serve", "--data", "/data"], words].concat()).expect("flags");
            Config::from_toml("", Path::new("gitstead.toml"), &line.serve.overrides()).expect("sound")
        };
        let config = read(&["--letta-memfs", "/memories"]);
        let address = config.address().expect("an address");
        assert_eq!(
            (address.to_string().as_str(), config.repos.as_path()),
            ("127.0.0.1:8285", Path::new("/memories"))
        );
        let config = read(&["--letta-memfs", "/memories", "--listen", "127.0.0.1:9"]);
        assert_eq!(config.listen, "127.0.0.1:9");
        assert_eq!(read(&[]).listen, "127.0.0.1:8080");
    }
}
