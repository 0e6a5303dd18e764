//! `agent`: one supervised child, from its start until nothing of it is left.
//!
//! Promise: what is started is ended, all of it, on every way out: also what has put itself into sessions of its own, also when Gitstead is killed. How it came to its end is
//! known or said to be unknown. What it writes is read at once and kept, however slow those are who look on. Decisions are a value ([`Machine`]); the only place
//! that starts processes is `spawn.rs`. Knows nothing of git and nothing of HTTP.

mod alone;
mod cgroup;
mod container;
mod driver;
mod handle;
mod http;
mod hunt;
mod launch;
mod meter;
mod output;
mod parent;
mod probe;
mod redact;
mod restarts;
mod rules;
mod sandbox;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod seccomp;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[path = "no_seccomp.rs"]
mod seccomp;
mod spawn;
mod spool;
mod stage;
mod state;
mod terminals;
mod tree;
mod wire;

pub use cgroup::{CgroupChoice, Cgroups};
pub use container::Container;
pub use driver::drive;
pub use handle::{
    Agent, Command, Host, Newborn, News, NotTaken, Orphan, Prepared, RUN_MARK, Settings, Status, spawn_parent,
};
pub use hunt::{hunt_down, is_alive, start_time, sweep_left};
pub use launch::{Bounds, Exit, ExitRecord, Isolation, Ladder, Launch, Sandbox, SpawnFailure, SpawnFault};
pub use meter::{Depths, Meter, Scale, Step, resident, weigh};
pub use output::{LogLine, LogPage, LogRing, RingBounds, Stream};
pub use parent::run_parent;
pub use probe::probe;
pub use redact::{Redactor, Sieve};
pub use rules::{Bound, Reaction, Restart, RestartMode, Rules, State, Watchdog, Watchdogs};
pub use spawn::{PARENT_COMMAND, STAGE_COMMAND, find_program};
pub use spool::{SpoolBounds, SpoolPiece, spooled, spooled_end, spooled_from, spooled_tail};
pub use stage::run_stage;
pub use state::{Cause, Event, Machine, Order, Timer};
pub use tree::is_held_outside;
