//! Codex: `codex exec --json`, one turn for each process, and `codex app-server`, JSON-RPC over lines with any number (measured with 0.169.0).
//!
//! Neither waits for us: where that is wanted, Codex's own hooks call `gitstead hook codex`.

mod exec;
mod items;
mod server;

pub(super) use exec::Exec;
pub(super) use server::Server;
