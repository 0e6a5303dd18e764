//! `server`: the composition root. Reads the configuration, starts telemetry, puts the house together and takes it down again.
//! No git and no HTTP of its own.

mod config;
mod file;
mod note;
mod notify;
mod run;
mod telemetry;

pub use config::{Config, ConfigError, Overrides, default_data_dir};
pub use file::sign_with;
pub(crate) use file::{Span, size};
pub use note::noted_server;
pub use run::{RunError, run};
pub use telemetry::start_telemetry;
