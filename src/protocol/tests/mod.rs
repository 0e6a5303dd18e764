#![allow(clippy::unwrap_used)]

mod client;
mod laws;
mod pkts;
mod replies;
mod transcripts;
