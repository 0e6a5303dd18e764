/// Why a variable cannot be given to an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// It is no name of a variable.
    #[error("Invalid agent env key: {key}")]
    Key {
        /// What it is.
        key: String,
    },
    /// It would make programs run something else than themselves.
    #[error("Invalid agent env key: {key} changes what programs run, or is ours")]
    Forbidden {
        /// Its name.
        key: String,
    },
}

impl EnvError {
    /// Whose move it is.
    pub fn fault(&self) -> crate::base::Fault {
        crate::base::Fault::Client
    }
}

/// What makes a loader, a shell or an interpreter run code of somebody else's before the program's own.
const FORBIDDEN: [&str; 19] = [
    "BASH_ENV",
    "ENV",
    "SHELLOPTS",
    "BASHOPTS",
    "PROMPT_COMMAND",
    "PS4",
    "IFS",
    "GCONV_PATH",
    "LOCPATH",
    "NODE_OPTIONS",
    "NODE_REPL_EXTERNAL_MODULE",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "PERL5OPT",
    "PERL5DB",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "GIT_EXTERNAL_DIFF",
];

/// Whether somebody may set this variable for an agent: `[A-Za-z_][A-Za-z0-9_]*`, and none that changes what programs run.
///
/// # Errors
///
/// [`EnvError`] says which of the two it is.
pub fn env_key(key: &str) -> Result<(), EnvError> {
    let mut bytes = key.bytes();
    let is_key = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && key.len() <= 256;
    if !is_key {
        let mut key: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
        key.truncate(key.trim_end().len());
        return Err(EnvError::Key { key });
    }
    let is_forbidden = FORBIDDEN.contains(&key)
        || ["LD_", "DYLD_", "BASH_FUNC_", "GIT_CONFIG_", "GITSTEAD_"]
            .iter()
            .any(|begin| key.starts_with(begin));
    // It has git read less, and nothing else.
    let is_forbidden = is_forbidden && key != "GIT_CONFIG_NOSYSTEM";
    if is_forbidden {
        return Err(EnvError::Forbidden { key: key.to_owned() });
    }
    Ok(())
}
