//! What clients of the control API are told when something could not be done with a workspace. Paths of the server are not among it.

use std::error::Error;

use axum::http::StatusCode;

use super::api::{ApiError, chain};
use crate::{
    base::Fault,
    checkpoint::{CheckpointError, ReadError, RestoreError, SquashError},
    workspace::{ManageError, WorkspaceError},
};

/// The answer to an error: what it says to clients, if anything.
fn told(fault: Fault, public: Option<String>, error: &dyn Error) -> ApiError {
    match (fault, public) {
        (Fault::NotFound, Some(text)) => ApiError::new(StatusCode::NOT_FOUND, "not_found", text),
        (Fault::Client, Some(text)) => ApiError::new(StatusCode::CONFLICT, "conflict", text),
        (Fault::Denied, Some(text)) => ApiError::new(StatusCode::FORBIDDEN, "forbidden", text),
        (Fault::Busy, text) => ApiError::busy(text.unwrap_or_else(|| "try again".to_owned())),
        (fault, _) => {
            tracing::error!(error = %chain(error), "a request of the control API failed");
            let (code, text) = match fault {
                Fault::Corrupt | Fault::Client => {
                    ("unservable", "the workspace cannot be worked with; the log says why")
                }
                _ => ("internal", "internal error; the log says why"),
            };
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code, text)
        }
    }
}

fn of_workspace(error: &WorkspaceError) -> Option<String> {
    match error {
        WorkspaceError::NotAWorkspace { .. } => Some("the files of the workspace are gone".to_owned()),
        WorkspaceError::Root { why, .. } => Some(format!("its directory is {why}")),
        WorkspaceError::TooManyFiles { .. }
        | WorkspaceError::Busy { .. }
        | WorkspaceError::Unsupported { .. }
        | WorkspaceError::Path { .. } => Some(error.to_string()),
        _ => None,
    }
}

fn of_read(error: &ReadError) -> Option<String> {
    match error {
        ReadError::Tree(_) | ReadError::Odb(_) | ReadError::Refs(_) | ReadError::Store(_) => None,
        other => Some(other.to_string()),
    }
}

fn of_checkpoint(error: &CheckpointError) -> Option<String> {
    match error {
        CheckpointError::Workspace(source) => of_workspace(source),
        CheckpointError::Refused { .. } | CheckpointError::Moving { .. } => Some(error.to_string()),
        _ => None,
    }
}

impl From<WorkspaceError> for ApiError {
    fn from(error: WorkspaceError) -> Self {
        told(error.fault(), of_workspace(&error), &error)
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match (error.fault(), of_read(&error)) {
            (Fault::Client, Some(text)) => ApiError::bad_request(text),
            (fault, text) => told(fault, text, &error),
        }
    }
}

impl From<CheckpointError> for ApiError {
    fn from(error: CheckpointError) -> Self {
        told(error.fault(), of_checkpoint(&error), &error)
    }
}

impl From<RestoreError> for ApiError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Read(source) => source.into(),
            RestoreError::Checkpoint(source) => source.into(),
            RestoreError::InProgress { .. } | RestoreError::Files { .. } | RestoreError::Moving => {
                told(error.fault(), Some(error.to_string()), &error)
            }
            other => told(other.fault(), None, &other),
        }
    }
}

impl From<SquashError> for ApiError {
    fn from(error: SquashError) -> Self {
        let public = match &error {
            SquashError::NotInRange { .. }
            | SquashError::Empty
            | SquashError::Exists { .. }
            | SquashError::CheckedOut { .. }
            | SquashError::Refused { .. } => Some(error.to_string()),
            SquashError::Refs(source) if source.fault() == Fault::Client => Some(source.to_string()),
            _ => None,
        };
        match error {
            SquashError::Read(source) => source.into(),
            other => told(other.fault(), public, &other),
        }
    }
}

impl From<ManageError> for ApiError {
    fn from(error: ManageError) -> Self {
        let public = match &error {
            ManageError::Place { .. }
            | ManageError::InTheWay { .. }
            | ManageError::Io { .. }
            | ManageError::Refs(_)
            | ManageError::Objects(_)
            | ManageError::Write(_)
            | ManageError::Depot(_)
            | ManageError::Workspace(_) => None,
            ManageError::Files { source, .. } => Some(source.public_text()),
            other => Some(other.to_string()),
        };
        match error {
            ManageError::Depot(source) => source.into(),
            ManageError::Workspace(source) => source.into(),
            ManageError::Exists { .. } => ApiError::new(StatusCode::CONFLICT, "exists", public.unwrap_or_default()),
            ManageError::Unsaved { .. } => ApiError::new(StatusCode::CONFLICT, "unsaved", public.unwrap_or_default()),
            ManageError::InTheWay { .. } => ApiError::new(
                StatusCode::CONFLICT,
                "conflict",
                "there is something else where the workspace would be",
            ),
            other => told(other.fault(), public, &other),
        }
    }
}
