//! The hands that serve real repositories.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use super::hands::{Context, Doors, Failure, Hands, PlainFile, Served, Service};
use crate::{
    base::{Fault, RepoName, Version},
    depot::{CreateOptions, Depot, DepotError},
    repo::Repository,
};

/// Repositories of a depot, served by the services.
#[derive(Debug)]
pub struct DepotHands {
    depot: Arc<Depot>,
    create: CreateOptions,
}

impl DepotHands {
    /// `create` says what a push to a new name makes.
    pub fn new(depot: Arc<Depot>, create: CreateOptions) -> Self {
        DepotHands { depot, create }
    }
}

impl Hands for DepotHands {
    fn find(&self, name: &RepoName) -> Result<Option<Arc<dyn Served>>, Failure> {
        match self.depot.open(name) {
            Ok(repo) => Ok(Some(Arc::new(Open(repo)))),
            Err(DepotError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn create(&self, name: &RepoName) -> Result<(Arc<dyn Served>, bool), Failure> {
        let made = match self.depot.create(name, &self.create) {
            Ok(()) => true,
            // Two first pushes met; this one is to the repository of the other.
            Err(DepotError::Exists { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        Ok((Arc::new(Open(self.depot.open(name)?)), made))
    }

    fn discard_if_empty(&self, name: &RepoName) -> Result<(), Failure> {
        match self.depot.discard_if_empty(name) {
            Ok(_) | Err(DepotError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn blank(&self) -> Result<Arc<dyn Served>, Failure> {
        Ok(Arc::new(Open(self.depot.blank(&self.create)?)))
    }
}

#[derive(Debug)]
struct Open(Arc<Repository>);

impl Served for Open {
    fn doors(&self) -> Doors {
        let http = &self.0.settings().http;
        Doors {
            upload_pack: http.upload_pack,
            receive_pack: http.receive_pack,
            any_file: http.get_any_file,
        }
    }

    fn advertise(&self, _: Service, _: Version, _: &Context<'_>, _: &mut dyn Write) -> Result<(), Failure> {
        Err(not_yet())
    }

    fn upload_pack(&self, _: Version, _: &Context<'_>, _: &mut dyn Read, _: &mut dyn Write) -> Result<(), Failure> {
        Err(not_yet())
    }

    fn receive_pack(&self, _: &Context<'_>, _: &mut dyn Read, _: &mut dyn Write) -> Result<(), Failure> {
        Err(not_yet())
    }

    fn info_refs(&self, _: &Context<'_>, _: &mut dyn Write) -> Result<(), Failure> {
        Err(not_yet())
    }

    fn info_packs(&self, _: &mut dyn Write) -> Result<(), Failure> {
        Err(not_yet())
    }

    fn file(&self, _: &Context<'_>, _: &str) -> Result<Option<PlainFile>, Failure> {
        Err(not_yet())
    }
}

// Until the service room is there.
fn not_yet() -> Failure {
    Failure {
        fault: Fault::Ours,
        public: "not implemented".to_owned(),
        source: None,
    }
}

impl From<DepotError> for Failure {
    fn from(error: DepotError) -> Self {
        let public = match &error {
            DepotError::Open { name, source } => {
                format!("repository '{name}' cannot be opened: {}", source.public_text())
            }
            DepotError::Io { .. } => "internal server error".to_owned(),
            other => other.to_string(),
        };
        Failure {
            fault: error.fault(),
            public,
            source: Some(Box::new(error)),
        }
    }
}
