use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    base::Fault,
    depot::{CreateOptions, Depot, DepotError},
    session::{Place, Trouble, Turn, Workspaces},
    web::{
        api::chain,
        residents::{Residents, Variant},
    },
    workspace::{CreateWorkspace, ManageError, Start, Workspace},
};

/// The workspaces of a house, as agents' sessions need them.
pub struct ResidentWorkspaces {
    /// Those that are open.
    pub residents: Arc<Residents>,
    /// Where all are.
    pub depot: Arc<Depot>,
    /// What a new repository is like.
    pub create: CreateOptions,
    /// How long to wait for others who change one.
    pub patience: Duration,
}

fn trouble(error: &ManageError) -> Trouble {
    tracing::warn!(error = %chain(error), "the workspace of an agent cannot be had");
    let fault = error.fault();
    let public = match (fault, error) {
        (_, ManageError::Depot(_) | ManageError::Workspace(_) | ManageError::Io { .. } | ManageError::Place { .. }) => {
            "the workspace cannot be had; the log of the server says why".to_owned()
        }
        (Fault::Client | Fault::NotFound | Fault::Busy, error) => error.to_string(),
        _ => "the workspace cannot be had; the log of the server says why".to_owned(),
    };
    Trouble { fault, public }
}

impl Workspaces for ResidentWorkspaces {
    fn ensure(&self, place: &Place, task: &str) -> Result<PathBuf, Trouble> {
        let Place { repository, workspace } = place;
        match self.residents.get(repository, workspace) {
            Ok(found) => return Ok(found.root().to_owned()),
            Err(error) if error.fault() != Fault::NotFound => return Err(trouble(&error)),
            Err(_) => {}
        }
        let there = self.depot.contains(repository).map_err(|err| trouble(&err.into()))?;
        let create = |start| {
            let create = CreateWorkspace {
                start,
                repository: self.create.clone(),
                options: self.residents.options().clone(),
                ..CreateWorkspace::default()
            };
            self.depot.create_workspace(repository, workspace, &create)
        };
        let empty = || create(Start::Empty { task: task.to_owned() });
        let in_it = || match create(Start::Default) {
            Err(ManageError::NoHistory { .. }) => empty(),
            other => other,
        };
        let made = match there {
            true => in_it(),
            false => match empty() {
                // Somebody else has made the repository at this moment; its workspace may still be missing.
                Err(ManageError::Depot(DepotError::Exists { .. })) => in_it(),
                other => other,
            },
        };
        match made {
            Ok(made) => {
                tracing::info!(%repository, %workspace, "workspace created for an agent");
                Ok(made.root().to_owned())
            }
            // Somebody else was quicker.
            Err(ManageError::Exists { .. }) => {
                let found = self.residents.get(repository, workspace).map_err(|err| trouble(&err))?;
                Ok(found.root().to_owned())
            }
            Err(error) => Err(trouble(&error)),
        }
    }

    fn open(&self, place: &Place) -> Result<Arc<Workspace>, Trouble> {
        self.residents
            .get_watched(&place.repository, &place.workspace, Variant::default())
            .map_err(|error| trouble(&error))
    }

    fn turn(&self, place: &Place) -> Turn {
        let (residents, place, patience) = (Arc::clone(&self.residents), place.clone(), self.patience);
        Box::pin(async move { residents.turn(&place.repository, &place.workspace, patience).await })
    }
}
