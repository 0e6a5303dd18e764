//! The hands that serve real repositories.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use super::{
    hands::{Doors, Failure, Hands, Served},
    live::{OnPushApplied, Workspaces},
};
use crate::{
    base::{RepoName, Version},
    depot::{CreateOptions, Depot, DepotError, Layout, Lease, Upkeep},
    repo::Repository,
    service::{self, Context, DumbFile, Service, ServiceError},
    workspace::WorkspaceOptions,
};

/// Repositories of a depot, served by the services.
#[derive(Debug)]
pub struct DepotHands {
    depot: Arc<Depot>,
    create: CreateOptions,
    beside: Arc<Beside>,
}

/// What a push has to do with beside its repository.
#[derive(Debug, Clone, Default)]
struct Beside {
    upkeep: Option<Arc<Upkeep>>,
    workspaces: WorkspaceOptions,
    layout: Layout,
    applied: Option<OnPushApplied>,
}

impl DepotHands {
    /// `create` says what a push to a new name makes.
    pub fn new(depot: Arc<Depot>, create: CreateOptions) -> Self {
        let beside = Beside {
            layout: depot.layout(),
            ..Beside::default()
        };
        DepotHands {
            depot,
            create,
            beside: Arc::new(beside),
        }
    }

    /// Has repositories looked after that were pushed to.
    pub fn with_upkeep(mut self, upkeep: Arc<Upkeep>) -> Self {
        Arc::make_mut(&mut self.beside).upkeep = Some(upkeep);
        self
    }

    /// How the workspaces are opened that are pushed to.
    pub fn with_workspaces(mut self, options: WorkspaceOptions) -> Self {
        Arc::make_mut(&mut self.beside).workspaces = options;
        self
    }

    /// Has somebody told of pushes that have changed the files of a workspace.
    pub fn with_push_applied(mut self, whom: OnPushApplied) -> Self {
        Arc::make_mut(&mut self.beside).applied = Some(whom);
        self
    }

    fn leased(&self, name: &RepoName, lease: Lease) -> Arc<dyn Served> {
        Arc::new(Open::Lease(name.clone(), lease, Arc::clone(&self.beside)))
    }
}

impl Hands for DepotHands {
    fn find(&self, name: &RepoName) -> Result<Option<Arc<dyn Served>>, Failure> {
        match self.depot.lease(name) {
            Ok(lease) => Ok(Some(self.leased(name, lease))),
            Err(DepotError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn create(&self, name: &RepoName) -> Result<(Arc<dyn Served>, bool), Failure> {
        const ATTEMPTS: usize = 8;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let made = match self.depot.create(name, &self.create) {
                Ok(()) => true,
                // Two first pushes met; this one is to the repository of the other.
                Err(DepotError::Exists { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            match self.depot.lease(name) {
                Ok(lease) => return Ok((self.leased(name, lease), made)),
                // The other push has failed meanwhile, and taken it away again.
                Err(DepotError::NotFound { .. }) if !made && attempt < ATTEMPTS => {}
                Err(error) => {
                    if made {
                        self.discard_if_empty(name)?;
                    }
                    return Err(error.into());
                }
            }
        }
    }

    fn discard_if_empty(&self, name: &RepoName) -> Result<(), Failure> {
        match self.depot.discard_if_empty(name) {
            Ok(_) | Err(DepotError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn check_free(&self, name: &RepoName) -> Result<(), Failure> {
        Ok(self.depot.check_free(name)?)
    }

    fn settle(&self, name: &RepoName) -> Result<(), Failure> {
        match self.depot.settle_head(name) {
            // It came to nothing, or another push has taken it away with its own.
            Ok(_) | Err(DepotError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn blank(&self) -> Result<Arc<dyn Served>, Failure> {
        Ok(Arc::new(Open::Blank(self.depot.blank(&self.create)?)))
    }
}

#[derive(Debug)]
enum Open {
    Lease(RepoName, Lease, Arc<Beside>),
    Blank(Arc<Repository>),
}

impl Open {
    fn repository(&self) -> &Repository {
        match self {
            Open::Lease(_, lease, _) => lease,
            Open::Blank(repository) => repository,
        }
    }
}

impl Served for Open {
    fn doors(&self) -> Doors {
        let settings = self.repository().settings();
        let http = &settings.http;
        // All of Letta's repositories say that anyone may push, and none that files may be fetched one by one.
        let is_lettas = matches!(self, Open::Lease(_, _, beside) if beside.layout != Layout::Names);
        Doors {
            upload_pack: http.upload_pack,
            receive_pack: http.receive_pack.filter(|open| !(is_lettas && *open)),
            any_file: http
                .get_any_file
                .unwrap_or(!is_lettas && settings.hide_refs_upload.is_empty()),
        }
    }

    fn advertise(
        &self,
        service: Service,
        version: Version,
        context: &Context<'_>,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        Ok(service::advertise(self.repository(), service, version, context, out)?)
    }

    fn upload_pack(
        &self,
        version: Version,
        context: &Context<'_>,
        body: &mut dyn Read,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        Ok(service::upload_pack(self.repository(), context, version, body, out)?)
    }

    fn receive_pack(&self, context: &Context<'_>, body: &mut dyn Read, out: &mut dyn Write) -> Result<(), Failure> {
        let workspaces = match self {
            Open::Lease(name, _, beside) => {
                Workspaces::new(context.limits, beside.workspaces.clone()).tell(name, beside.applied.clone())
            }
            Open::Blank(_) => Workspaces::new(context.limits, WorkspaceOptions::default()),
        };
        let context = Context {
            worktrees: Some(&workspaces),
            ..*context
        };
        let summary = service::receive_pack(self.repository(), &context, body, out)?;
        tracing::info!(
            refs = summary.refs.len(),
            refused = summary.refs.iter().filter(|r| r.refused.is_some()).count(),
            objects = summary.objects,
            bytes = summary.bytes,
            "push"
        );
        if let Open::Lease(_, lease, beside) = self
            && let Some(upkeep) = &beside.upkeep
        {
            upkeep.consider(lease.repository());
        }
        Ok(())
    }

    fn info_refs(&self, context: &Context<'_>, out: &mut dyn Write) -> Result<(), Failure> {
        Ok(service::dumb_info_refs(self.repository(), context, out)?)
    }

    fn info_packs(&self, out: &mut dyn Write) -> Result<(), Failure> {
        Ok(service::dumb_info_packs(self.repository(), out)?)
    }

    fn file(&self, context: &Context<'_>, relative: &str) -> Result<Option<DumbFile>, Failure> {
        Ok(service::dumb_file(self.repository(), context, relative))
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Failure {
            fault: error.fault(),
            public: error.public_text(),
            source: Some(Box::new(error)),
        }
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
