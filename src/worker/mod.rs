//! `worker`: where async meets blocking.
//!
//! Promise: blocking work runs on named threads in two lanes, admitted before it is queued, so that nothing ever waits in an unbounded place.
//! A full house is an answer ([`Busy`]), not a longer queue. Bytes cross between async and blocking code through bounded pipes with a
//! deadline on both sides; whoever leaves is noticed by the other. A panic in a job is the end of that job only.
//!
//! Knows nothing of git and nothing of HTTP beyond the shape of a body.

mod body;
mod gate;
mod pace;
mod pool;
mod reply;

pub use body::BodyReader;
pub use gate::{Busy, BusyScope, Lane, Permit};
pub use pace::Pace;
pub use pool::{CallError, Stats, Workers};
pub use reply::{Answer, CHUNK_BYTES, CutShort, Reply, ReplyBody};

#[cfg(test)]
mod tests;
