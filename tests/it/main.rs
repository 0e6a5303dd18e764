//! Everything that needs real repositories, a real git client or the real binary. One binary, so that it links once; every file here is a module below
//! (`tidy` checks that none is forgotten).

mod api;
mod cli;
mod depot;
mod fetch;
mod fsck;
mod http;
mod ingest;
mod no_exec;
mod push;
mod refs;
mod send;
mod store;
mod support;
