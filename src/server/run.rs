use super::{Config, ConfigError};
use crate::depot::DepotError;
use std::io;

/// Why the server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It was told something it cannot do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The repositories cannot be got at.
    #[error("open the directory of repositories")]
    Depot(#[from] DepotError),
    /// The address cannot be had.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it could not.
        source: io::Error,
    },
}

/// Serves until told to stop by SIGTERM or SIGINT.
pub fn run(config: Config) -> Result<(), RunError> {
    let _ = config.address()?;
    Ok(())
}
