use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, ToolOutcome};

/// A checkpoint that somebody asks for: the body of `POST …/checkpoints`, and what a hook sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "each field is what the method of `Checkpoint` of its name is given"
)]
pub struct CheckpointWish {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    pub summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<u64>,
    #[serde(default)]
    pub tool_use_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(default)]
    pub trailers: Vec<TrailerWish>,
    /// Beside the branch.
    #[serde(default)]
    pub shadow: bool,
    /// Not if no file has changed.
    #[serde(default)]
    pub skip_unchanged: bool,
}

/// A trailer of somebody's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailerWish {
    /// Before the colon.
    pub key: String,
    /// Behind it.
    pub value: String,
}

impl CheckpointWish {
    /// What is to be written.
    ///
    /// # Errors
    /// The word for the outcome, if it is none.
    pub fn checkpoint(self) -> Result<Checkpoint, String> {
        let mut checkpoint = match self.tool {
            Some(tool) => Checkpoint::after(tool, self.summary),
            None => Checkpoint::message(self.summary),
        };
        if let Some(agent) = self.agent {
            checkpoint = checkpoint.agent(agent);
        }
        if let Some(session) = self.session {
            checkpoint = checkpoint.session(session);
        }
        if let Some(turn) = self.turn {
            checkpoint = checkpoint.turn(turn);
        }
        for id in self.tool_use_ids {
            checkpoint = checkpoint.tool_use(id);
        }
        if let Some(word) = self.outcome {
            checkpoint = checkpoint.outcome(ToolOutcome::from_word(&word).ok_or(word)?);
        }
        if let Some(millis) = self.duration_ms {
            checkpoint = checkpoint.duration(Duration::from_millis(millis));
        }
        for TrailerWish { key, value } in self.trailers {
            checkpoint = checkpoint.trailer(key, value);
        }
        Ok(checkpoint)
    }
}
