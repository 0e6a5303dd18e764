use std::io;

use crate::{
    base::Fault,
    protocol::{PktError, RequestError},
    repo::{ConnectivityError, IngestError, OdbError, RefsError, SendError, StoreError},
};

/// Why a service could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The request is refused; the text is git's.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The client went away.
    #[error("the client went away")]
    Gone,
    /// The request ended in the middle.
    #[error("the remote end hung up unexpectedly")]
    HungUp,
    /// The request is larger than this house allows.
    #[error("the request is larger than {limit} bytes")]
    TooLarge {
        /// The bound, in bytes.
        limit: u64,
    },
    /// The body could not be read.
    #[error("reading the request")]
    Body(#[source] io::Error),
    /// The answer could not be written.
    #[error("writing the answer")]
    Write(#[source] io::Error),
    /// The pack could not be selected or written.
    #[error(transparent)]
    Send(#[from] SendError),
    /// An object could not be read.
    #[error(transparent)]
    Odb(#[from] OdbError),
    /// Refs could not be read or written.
    #[error(transparent)]
    Refs(#[from] RefsError),
    /// The repository could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pushed pack was refused.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The history behind what was pushed could not be walked.
    #[error(transparent)]
    Connectivity(#[from] ConnectivityError),
    /// A commit or tag that a shallow request names cannot be found.
    #[error("{text}")]
    Refused {
        /// Why, in words for the client.
        text: String,
    },
}

impl ServiceError {
    /// Whose move it is.
    pub fn fault(&self) -> Fault {
        match self {
            ServiceError::Request(err) => err.fault(),
            ServiceError::Gone
            | ServiceError::HungUp
            | ServiceError::TooLarge { .. }
            | ServiceError::Body(_)
            | ServiceError::Write(_)
            | ServiceError::Refused { .. } => Fault::Client,
            ServiceError::Send(err) => err.fault(),
            ServiceError::Odb(err) => err.fault(),
            ServiceError::Refs(err) => err.fault(),
            ServiceError::Store(err) => err.fault(),
            ServiceError::Ingest(err) => err.fault(),
            ServiceError::Connectivity(err) => err.fault(),
        }
    }

    /// What the client may read: never a path or a chain of causes, those are for the log.
    pub fn public_text(&self) -> String {
        match self.fault() {
            Fault::Ours => "internal server error".to_owned(),
            Fault::Corrupt => match self {
                ServiceError::Send(SendError::Missing { oid, .. }) => {
                    format!("the repository is damaged: object {oid} is missing")
                }
                _ => "the repository is damaged".to_owned(),
            },
            _ => self.to_string(),
        }
    }

    /// Whether there is nobody left to tell.
    pub fn is_gone(&self) -> bool {
        matches!(self, ServiceError::Gone | ServiceError::Write(_))
    }
}

impl From<PktError> for ServiceError {
    fn from(err: PktError) -> Self {
        ServiceError::Request(err.into())
    }
}
