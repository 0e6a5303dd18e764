//! opencode: `opencode run --format json`, one turn for each process, and the events of `opencode serve` (measured with 1.18.33). Over ACP it speaks with [`acp`](super::acp).

mod parts;
mod run;
mod server;

pub(super) use run::Run;
pub(super) use server::Server;
