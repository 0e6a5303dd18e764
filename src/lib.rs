//! Gitstead: a git server for AI agents' workspaces, in pure Rust.
//!
//! The crate is built in floors; imports point downwards only and `tests/it/tidy.rs` holds the table:
//!
//! * `base`: plain values. Names, limits, faults, access.
//! * `protocol`, `pack`, `dialect`: git's wire, git's files and the stream protocols of agents as values. No IO of their own.
//! * `repo`, `depot`, `service`, `checkpoint`: blocking work on repositories. No async, no HTTP.
//! * `worker`, `agent`, `ledger`, `session`, `web`, `server`, `cli`: the async house (feature `server`, on by default).
//!
//! Only agents' own commands are started, and in one place (`agent::spawn_parent`); git's work is done here. Nothing links C.

pub mod base;
pub mod checkpoint;
pub mod depot;
pub mod dialect;
pub mod pack;
pub mod protocol;
pub mod repo;
pub mod service;
pub mod workspace;

#[cfg(feature = "server")]
pub mod agent;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod ledger;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod session;
#[cfg(feature = "server")]
pub mod web;
#[cfg(feature = "server")]
pub mod worker;
