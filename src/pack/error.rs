use crate::base::Fault;

/// Why bytes are not what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before the value does.
    #[error("{what} is truncated")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// The value breaks a rule of the format.
    #[error("{what}: {why}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// The rule.
        why: &'static str,
    },
    /// A checksum or a declared size does not fit the bytes.
    #[error("{what} does not match its contents")]
    Mismatch {
        /// What was being read.
        what: &'static str,
    },
    /// The value is larger than the caller allows.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// The bound, in bytes.
        limit: u64,
    },
}

impl FormatError {
    /// Malformed bytes are damage; whose damage it is only the caller knows.
    pub fn fault(&self) -> Fault {
        Fault::Corrupt
    }
}
