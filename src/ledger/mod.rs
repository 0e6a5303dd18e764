//! `ledger`: what must outlive a restart and git cannot hold, in one file (`ledger.redb`).
//!
//! Promise: a record is there whole or as it was before, whenever the process is killed. Writers never wait for the disk: what they give is in the order in which it was
//! given, many changes are one transaction, and [`Ledger::flush`] says when it is done. Records are JSON that belongs to whoever wrote it; nothing is known here of what is
//! in it.

mod changes;
mod disk;
mod error;
mod store;
#[cfg(test)]
mod tests;

pub use error::LedgerError;
pub use store::{Entry, Ledger, Shelf};
