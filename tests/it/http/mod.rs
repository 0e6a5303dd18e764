//! The HTTP face by itself: raw requests against a real accept loop, with made-up repositories behind the routes.

#![allow(clippy::unwrap_used, reason = "a test says enough by failing at the line")]
mod bad;
mod flow;
mod rules;
mod support;
mod table;
