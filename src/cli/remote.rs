//! Which server a command is for that is carried out by one.

use anyhow::bail;
use clap::Args;

use super::{args::Place, client::Client};
use crate::server::{self, Config, ConfigError, noted_server};

#[derive(Debug, Args)]
pub(super) struct Remote {
    #[command(flatten)]
    place: Place,
    /// The server [default: the one that runs on the data directory]
    #[arg(long, value_name = "URL", env = "GITSTEAD_SERVER", global = true)]
    server: Option<String>,
    /// A token of that server
    #[arg(
        long,
        value_name = "TOKEN",
        env = "GITSTEAD_TOKEN",
        global = true,
        hide_env_values = true
    )]
    token: Option<String>,
    /// Print JSON, as the HTTP API does
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Remote {
    /// A client of that server.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        server::start_telemetry(self.place.log.as_deref().unwrap_or("warn"))?;
        let url = match &self.server {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let config = match Config::load(&self.place.overrides()) {
                    Ok(config) => Some(config),
                    Err(ConfigError::NoHome) => None,
                    Err(error) => return Err(error.into()),
                };
                let data = config.map(|config| config.data);
                match data.as_deref().and_then(noted_server) {
                    Some(url) => url,
                    None => {
                        let place = data.map_or_else(String::new, |data| format!(" on {}", data.display()));
                        bail!(
                            "no server runs{place}: agents and their sessions live next to one. Start it with `gitstead serve`, or say where it is with --server"
                        );
                    }
                }
            }
        };
        Client::new(&url, self.token.clone())
    }
}
