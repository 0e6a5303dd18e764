use anyhow::Context as _;

use crate::base::{Access, Pattern, TokenHash, token_text};

pub(super) fn new(name: &str, repos: &[String], access: Access) -> anyhow::Result<()> {
    for pattern in repos {
        Pattern::parse(pattern)?;
    }
    let mut random = [0; 25];
    getrandom::fill(&mut random).context("get random bytes from the system")?;
    let token = token_text(&random);
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let patterns: Vec<_> = repos.iter().map(|pattern| quoted(pattern)).collect();
    super::print(&format!(
        "{token}\n\n\
         # This is the only time the token is shown. It is a password for any user name, or a bearer token.\n\
         # Add these lines to gitstead.toml and restart the server:\n\n\
         [[tokens]]\n\
         name = {}\n\
         hash = \"{}\"\n\
         repos = [{}]\n\
         access = \"{access}\"\n",
        quoted(name),
        TokenHash::of(&token),
        patterns.join(", "),
    ))
}
