//! The door for hooks of agents that we did not start: a socket in the data directory, through which whoever runs this server has checkpoints made of the workspaces
//! that are open here and watched anyway.
//!
//! Both sides send frames: four bytes of length, the highest first, and so much JSON. The hook sends one [`HookAsk`]; it gets [`HookReply::Taken`] at once, and
//! another reply when the checkpoint is made.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use super::{api::Api, residents::Variant, wish::CheckpointWish};
use crate::{
    base::{RepoName, WorkspaceName},
    worker::Lane,
};

/// The name of the socket in the data directory.
pub const HOOK_SOCKET: &str = "hook.sock";
/// Bytes of a frame. What a checkpoint says is much less; the whole event of an agent does not come here.
pub const HOOK_FRAME: usize = 1 << 20;

/// Hooks that are served at a time; others wait at the door, and do without us if that takes long.
const AT_ONCE: usize = 64;
/// How long a hook may take to say what it wants, or to take what it is told.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a hook asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookAsk {
    /// The directory of the workspace, without links in it.
    pub root: PathBuf,
    /// What is to be recorded.
    pub wish: CheckpointWish,
}

/// What it is told.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookReply {
    /// The workspace is one of ours, and the checkpoint is being made.
    Taken,
    /// It is made; these are its warnings.
    Done(Vec<String>),
    /// It could not be made.
    Failed(String),
    /// It is not ours to make, or not now: the hook makes it itself.
    Yours,
}

/// The socket. It is removed when this is dropped.
#[derive(Debug)]
pub struct HookDoor {
    path: PathBuf,
    listener: UnixListener,
}

impl HookDoor {
    /// Opens the door in the data directory, in place of one that a killed server has left: callers know that no other serves this directory. Only this user can come to it.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(data: &Path) -> io::Result<Self> {
        let data = data.canonicalize()?;
        let (path, beside) = (data.join(HOOK_SOCKET), data.join("hook.sock.new"));
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&beside, &path)?;
        Ok(HookDoor { path, listener })
    }

    /// Serves whoever comes, until it is dropped.
    pub async fn serve(self, api: Arc<Api>) {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let work: Arc<Path> = self.path.with_file_name("work").into();
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (api, work) = (Arc::clone(&api), Arc::clone(&work));
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &api, &work).await {
                            tracing::debug!(%error, "a hook went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a hook could not come in");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for HookDoor {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, api: &Arc<Api>, work: &Path) -> io::Result<()> {
    let ours = rustix::process::geteuid().as_raw();
    let uid = stream.peer_cred()?.uid();
    if uid != ours && uid != 0 {
        tracing::warn!(uid, "another user came to the door for hooks");
        return Ok(());
    }
    let ask = timeout(PATIENCE, read_ask(&mut stream)).await??;
    let Some((repository, name)) = named(&ask.root, work) else {
        return tell(&mut stream, &HookReply::Yours).await;
    };
    // Only then is it worth waiting for.
    tell(&mut stream, &HookReply::Taken).await?;
    let reply = record(api, repository, name, ask).await;
    tell(&mut stream, &reply).await
}

async fn record(api: &Arc<Api>, repository: RepoName, name: WorkspaceName, ask: HookAsk) -> HookReply {
    let HookAsk { root, wish } = ask;
    let variant = Variant {
        shadow: wish.shadow,
        skip_unchanged: wish.skip_unchanged,
    };
    let checkpoint = match wish.checkpoint() {
        Ok(checkpoint) => checkpoint,
        Err(word) => return HookReply::Failed(format!("'{word}' is no outcome")),
    };
    let patience = api.house.limits.queue_wait;
    let Some(_turn) = api.workspaces.turn(&repository, &name, patience).await else {
        return HookReply::Yours;
    };
    let inner = Arc::clone(api);
    let job = move || {
        let workspace = match inner.workspaces.get_watched(&repository, &name, variant) {
            Ok(workspace) if workspace.root() == root => workspace,
            _ => return HookReply::Yours,
        };
        match workspace.checkpoint(checkpoint) {
            Ok(outcome) => {
                let commit = outcome.commit.map(|id| id.to_string());
                tracing::info!(%repository, workspace = %name, commit, "a hook's checkpoint");
                HookReply::Done(outcome.warnings)
            }
            Err(error) => HookReply::Failed(format!("{:#}", anyhow::Error::from(error))),
        }
    };
    let made = api.house.workers.call(Lane::Short, None, job).await;
    made.unwrap_or(HookReply::Yours)
}

/// Which workspace lies there.
fn named(root: &Path, work: &Path) -> Option<(RepoName, WorkspaceName)> {
    let (repository, name) = root.strip_prefix(work).ok()?.to_str()?.rsplit_once('/')?;
    Some((RepoName::parse(repository).ok()?, WorkspaceName::parse(name).ok()?))
}

async fn read_ask(stream: &mut UnixStream) -> io::Result<HookAsk> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > HOOK_FRAME {
        return Err(wrong(format!("a frame of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
}

async fn tell(stream: &mut UnixStream, reply: &HookReply) -> io::Result<()> {
    let mut text = serde_json::to_vec(reply)?;
    if text.len() > HOOK_FRAME {
        text = serde_json::to_vec(&HookReply::Done(Vec::new()))?;
    }
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let frame = [&length.to_be_bytes()[..], &text].concat();
    timeout(PATIENCE, stream.write_all(&frame)).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_known_by_where_it_lies() {
        let of = |root: &str| {
            named(Path::new(root), Path::new("/data/work")).map(|(repository, name)| format!("{repository} {name}"))
        };
        assert_eq!(of("/data/work/app/main").as_deref(), Some("app main"));
        assert_eq!(of("/data/work/team/app/main").as_deref(), Some("team/app main"));
        for other in [
            "/data/work",
            "/data/work/main",
            "/elsewhere/app/main",
            "/data/work/../app/main",
            "app/main",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
