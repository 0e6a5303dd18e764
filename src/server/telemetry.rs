use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::ConfigError;

/// Sends the log to standard error, filtered by `filter` (`info`, `gitstead=debug,warn`, …). Only the first call of a process counts.
///
/// # Errors
/// When the filter cannot be read.
pub fn start_telemetry(filter: &str) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| ConfigError::Value {
        key: "log".to_owned(),
        why: format!("'{filter}' is not a filter such as \"info\" or \"gitstead=debug\": {error}"),
    })?;
    let set = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    // An embedding program, or a test, may have its own.
    drop(set);
    Ok(())
}
