//! `checkpoint`: a workspace's state as a commit, and what commits can tell afterwards.
//!
//! Records what an agent did, reads the trail back, and brings earlier states forth again as new commits. Never rewrites history, never overwrites work that
//! is not in a commit, and starts no process.

mod message;

pub use message::{Checkpoint, CheckpointMessage, ToolOutcome, compose, parse, subject_of};
