//! What the tests share: an isolated git, deterministic histories, and a server to talk to.
//!
//! Tests may run git; the server may not. Every git here has a HOME of its own, no system or global configuration, a fixed identity and fixed dates.
#![allow(dead_code, unused_imports)]

mod git;
mod server;

pub use git::{Git, Output};
pub use server::{Server, ServerOptions};
