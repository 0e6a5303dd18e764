//! `send`: what to send to a client, and the pack that holds it.
//!
//! [`enumerate`] finds the objects of wants − haves under filters and shallow boundaries, [`write_pack`] sends them, copying compressed bytes and deltas as they lie
//! in the repository's packs. Beside them the questions that a negotiation asks of history. Never sends a pack that its receiver cannot
//! resolve; finds what is missing before the first byte. Holds a few bits for each object, and no object as a whole but those it has to encode anew.

mod anew;
mod by_bitmap;
mod deepen;
mod enumerate;
mod error;
mod filter;
mod marks;
mod pack_writer;
mod pairs;
pub(super) mod parse;
mod paths;
mod places;
mod questions;
mod reach;
mod reader;
mod set;
mod sink;
mod trees;
mod walk;

pub use anew::Anew;
pub use deepen::{DeepenTo, ShallowPlan};
pub use enumerate::{SendRequest, enumerate};
pub use error::SendError;
pub use filter::{FilterPlan, FilterResolveError, SparseLookup};
pub use pack_writer::{PackOptions, PackStats, write_pack};
pub use questions::{CommonGround, is_ancestor, plan_deepen, unreachable_of};
pub use set::{KeptSet, ObjectSet};
