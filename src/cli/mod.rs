//! `cli`: the commands of the binary. Arguments in, text on standard output, one error with its causes on standard error, an exit code: 0 for done, 1 for
//! could not, 2 for wrong arguments or configuration, 3 for a server that was told to end and had to cut something off. Nothing is decided here that another face would have to decide too.

mod agent;
mod args;
mod attach;
mod bench;
mod client;
mod debug;
mod history;
mod hold;
mod maintain;
mod remote;
mod repo;
mod session;
mod token;
mod told;
mod trail;
mod workspace;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;

use crate::{
    agent::{PARENT_COMMAND, STAGE_COMMAND, run_parent, run_stage},
    server::{self, Config, ConfigError, RunError},
};

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    // Not for people, and started often: nothing else of this is needed for it.
    match std::env::args_os().nth(1) {
        Some(first) if first == PARENT_COMMAND => return run_parent(),
        Some(first) if first == STAGE_COMMAND => return run_stage(),
        _ => {}
    }
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help, the version, or what is wrong with the arguments.
            let mut words = std::env::args_os().skip(1);
            let is_hook = words.next().is_some_and(|first| first == "hook")
                && words.next().is_none_or(|second| second != "install");
            if error.exit_code() != 0 && is_hook {
                // Agents take 2 for an order to stop, and some any other than 0 for a failure of the tool. A message they show.
                trail::say_of_hook(error.to_string().trim_end());
                return ExitCode::SUCCESS;
            }
            let _ = error.print();
            return ExitCode::from(if error.exit_code() == 0 { 0 } else { 2 });
        }
    };
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reader_left = error.chain().any(|cause| {
                cause
                    .downcast_ref::<io::Error>()
                    .is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
            });
            if reader_left {
                return ExitCode::SUCCESS;
            }
            let _ = writeln!(io::stderr(), "error: {error:#}");
            let ours_to_fix = error.chain().any(|cause| cause.is::<ConfigError>());
            let unfinished = |cause: &(dyn std::error::Error + 'static)| {
                matches!(cause.downcast_ref::<RunError>(), Some(RunError::Unfinished { .. }))
            };
            ExitCode::from(match () {
                () if ours_to_fix => 2,
                () if error.chain().any(unfinished) => 3,
                () => 1,
            })
        }
    }
}

fn execute(command: args::Command) -> anyhow::Result<()> {
    match command {
        args::Command::Serve(serve) => {
            let config = Config::load(&serve.overrides())?;
            server::start_telemetry(&config.log)?;
            server::run(config).map_err(|error| match error {
                RunError::Config(error) => error.into(),
                other => other.into(),
            })
        }
        args::Command::Repo(command) => {
            let mut overrides = command.place.overrides();
            // What a command warns about matters; what it does is on standard output.
            overrides.log.get_or_insert_with(|| "warn".to_owned());
            let config = Config::load(&overrides)?;
            server::start_telemetry(&config.log)?;
            repo::run(&config, command.command, command.json)
        }
        args::Command::Workspace(command) => {
            let mut overrides = command.place.overrides();
            overrides.log.get_or_insert_with(|| "warn".to_owned());
            let config = Config::load(&overrides)?;
            server::start_telemetry(&config.log)?;
            workspace::run(&config, command.command, command.json)
        }
        args::Command::Maintain(command) => {
            let mut overrides = command.place.overrides();
            overrides.log.get_or_insert_with(|| "warn".to_owned());
            let config = Config::load(&overrides)?;
            server::start_telemetry(&config.log)?;
            maintain::run(&config, &command)
        }
        args::Command::Agent(command) => agent::run(&command),
        args::Command::Session(command) => session::run(&command),
        args::Command::Trail(command) => trail::run(command),
        args::Command::Token(args::Token::New { name, repos, access }) => token::new(&name, &repos, access),
        args::Command::Bench(args::Bench::Serve(options)) => bench::serve(&options),
        args::Command::Debug(args::Debug::PktLine) => debug::pkt_line(),
    }
}

/// Writes to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write to standard output")
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("write JSON")?;
    print(&format!("{text}\n"))
}
