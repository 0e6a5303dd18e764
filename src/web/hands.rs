//! What the git routes ask of the floors below, as one seam: tests of the faces put something else behind it.

use std::{
    error::Error,
    io::{Read, Write},
    sync::Arc,
};

use crate::{
    base::{Fault, RepoName, Version},
    service::{Context, DumbFile, Service},
};

/// Finds and makes repositories.
pub trait Hands: Send + Sync + 'static {
    /// The repository of this name; `None` if there is none that is served.
    fn find(&self, name: &RepoName) -> Result<Option<Arc<dyn Served>>, Failure>;

    /// Creates the repository, or gives the one that somebody else has created meanwhile. Says whether it was this call that made it.
    fn create(&self, name: &RepoName) -> Result<(Arc<dyn Served>, bool), Failure>;

    /// Takes a repository away again that [`create`](Self::create) made for a push that came to nothing. One that has anything in it stays.
    fn discard_if_empty(&self, name: &RepoName) -> Result<(), Failure>;

    /// Whether [`create`](Self::create) would find room for this name. Asked when a push is announced: what is said then, git shows.
    fn check_free(&self, _: &RepoName) -> Result<(), Failure> {
        Ok(())
    }

    /// Ends the making of a repository by a push that moved something: its HEAD names a branch that is there, if only one can be meant.
    fn settle(&self, _: &RepoName) -> Result<(), Failure> {
        Ok(())
    }

    /// An empty repository without a name: what a push is shown that would create one. Its settings are those of a new repository.
    fn blank(&self) -> Result<Arc<dyn Served>, Failure>;
}

/// One repository, open.
pub trait Served: Send + Sync {
    /// What its configuration says of the doors.
    fn doors(&self) -> Doors;
    /// The advertisement of a service, with its `# service=` line where one is due.
    fn advertise(
        &self,
        service: Service,
        version: Version,
        context: &Context<'_>,
        out: &mut dyn Write,
    ) -> Result<(), Failure>;
    /// Fetch.
    fn upload_pack(
        &self,
        version: Version,
        context: &Context<'_>,
        body: &mut dyn Read,
        out: &mut dyn Write,
    ) -> Result<(), Failure>;
    /// Push.
    fn receive_pack(&self, context: &Context<'_>, body: &mut dyn Read, out: &mut dyn Write) -> Result<(), Failure>;
    /// `info/refs` for dumb clients.
    fn info_refs(&self, context: &Context<'_>, out: &mut dyn Write) -> Result<(), Failure>;
    /// `objects/info/packs`.
    fn info_packs(&self, out: &mut dyn Write) -> Result<(), Failure>;
    /// A file of the dumb protocol; `None` if there is none at this path within the repository.
    fn file(&self, context: &Context<'_>, relative: &str) -> Result<Option<DumbFile>, Failure>;
}

/// `http.uploadpack`, `http.receivepack` and `http.getanyfile` of one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doors {
    /// True when unset.
    pub upload_pack: bool,
    /// As set or not set.
    pub receive_pack: Option<bool>,
    /// True when unset.
    pub any_file: bool,
}

impl Default for Doors {
    fn default() -> Self {
        Doors {
            upload_pack: true,
            receive_pack: None,
            any_file: true,
        }
    }
}

/// Why it could not be done: whose move it is, what the client may read, and the whole story for the log.
#[derive(Debug, thiserror::Error)]
#[error("{public}")]
pub struct Failure {
    /// Whose move it is.
    pub fault: Fault,
    /// Without paths and causes.
    pub public: String,
    /// With them.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}
