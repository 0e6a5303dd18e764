//! Everything that needs real repositories, a real git client or the real binary. One binary, so that it links once; every file here is a module below
//! (`tidy` checks that none is forgotten).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says so by panicking, and it may start git"
)]

mod agents;
mod agents_acp;
mod agents_api;
mod agents_ask;
mod agents_attach;
mod agents_claude;
mod agents_container;
mod agents_flood;
mod agents_held;
mod agents_kept;
mod agents_many;
mod agents_ndjson;
mod agents_opencode;
mod agents_permissions;
mod agents_played;
mod agents_sessions;
mod agents_sessions_cli;
mod agents_stops;
mod api;
mod bench_serve;
mod bitmaps;
mod checkpoint;
mod checkpoint_crash;
mod checkpoint_races;
mod cli;
mod clients;
mod crash;
mod depot;
mod expire;
mod fetch;
mod fsck;
mod hook_socket;
mod hostile;
mod http;
mod ingest;
mod live;
mod maintain;
mod memfs;
mod metrics;
mod no_exec;
mod openapi;
mod push;
mod refs;
mod repack;
mod restore;
mod send;
mod send_anew;
mod squash;
mod store;
mod support;
mod tidy;
mod trail;
mod trail_cli;
mod wire;
mod workspace_api;
mod workspaces;
