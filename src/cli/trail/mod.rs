//! The trail of a workspace on the command line.

mod args;
mod branch;
mod diff;
mod hook;
mod hook_socket;
mod install;
mod log;
mod place;
mod record;
mod restore;
mod summary;
mod text;

pub(super) use args::Command;
pub(super) use hook::say as say_of_hook;

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Checkpoint(wanted) => record::run(&wanted),
        Command::Log(wanted) => log::run(&wanted),
        Command::Show(wanted) => log::show(&wanted),
        Command::Diff(wanted) => diff::run(&wanted),
        Command::Restore(wanted) => restore::restore(&wanted),
        Command::Undo(wanted) => restore::undo(&wanted),
        Command::Branch(wanted) => branch::branch(&wanted),
        Command::Squash(wanted) => branch::squash(&wanted),
        Command::Hook(args::Hook::ClaudeCode(wanted)) => hook::run(args::Hooked::ClaudeCode, &wanted),
        Command::Hook(args::Hook::Codex(wanted)) => hook::run(args::Hooked::Codex, &wanted),
        Command::Hook(args::Hook::Letta(wanted)) => hook::run(args::Hooked::Letta, &wanted),
        Command::Hook(args::Hook::Install(wanted)) => install::run(&wanted),
    }
}

/// Prints JSON. What a terminal could take for an order is escaped in it, whatever it is in.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use std::fmt::Write as _;
    let plain = serde_json::to_string_pretty(value)?;
    let mut out = String::with_capacity(plain.len() + 1);
    for c in plain.chars() {
        // Such characters are in strings only; there they may be written so.
        if text::is_harmful(c) && c != '\n' {
            write!(out, "\\u{:04x}", u32::from(c))?;
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    super::print(&out)
}
