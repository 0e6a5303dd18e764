//! What somebody on this machine needs who wants to look at an agent with his own tools: where it is, and commands that can be executed as they are.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use axum::{extract::State, http::StatusCode};
use serde::Serialize;

use super::{At, Deed, Who, doors, entry};
use crate::{
    base::{RepoName, rfc3339},
    session::{Attachment, Located, Stream},
    web::api::{Answer, Api, ApiError, json},
};

/// A shell in the directory that is its first argument; the user's own one, if he says which that is.
const SHELL: &str = "cd -- \"$1\" && exec \"${SHELL:-sh}\"";

/// Where an agent is. Its arguments and variables are in none of it.
#[derive(Debug, Serialize)]
struct AttachView {
    name: String,
    state: &'static str,
    run: u32,
    /// Whether it has a process now. Of one that has ended there are still its workspace and its output.
    running: bool,
    workspace: PlaceView,
    process: Option<ProcessView>,
    /// Below it are all processes of the agent, unless it is in a container.
    parent: Option<ProcessView>,
    cgroup: Option<String>,
    container: Option<ContainerView>,
    output: Vec<OutputView>,
    commands: Vec<CommandView>,
}

#[derive(Debug, Serialize)]
struct PlaceView {
    repository: String,
    name: String,
    branch: Option<String>,
    /// Where its files are; null when it is not there any more.
    path: Option<String>,
    /// Where the agent begins.
    cwd: Option<String>,
    clone_url: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProcessView {
    pid: i32,
    started_at: Option<String>,
    /// Field 22 of `/proc/PID/stat`.
    start_ticks: u64,
}

#[derive(Debug, Serialize)]
struct ContainerView {
    name: String,
    user: Option<String>,
    dir: String,
}

#[derive(Debug, Serialize)]
struct OutputView {
    stream: Stream,
    /// The newest file first.
    files: Vec<String>,
}

#[derive(Debug, Serialize)]
struct CommandView {
    name: &'static str,
    does: &'static str,
    argv: Vec<String>,
    /// The same for a shell.
    shell: String,
}

impl From<Located> for ProcessView {
    fn from(located: Located) -> Self {
        ProcessView {
            pid: located.pid,
            started_at: located.at.map(|at| rfc3339(at, 0)),
            start_ticks: located.ticks,
        }
    }
}

/// A text as one word of a POSIX shell (XCU 2.2.2).
fn quoted(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&b);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn command<const N: usize>(name: &'static str, does: &'static str, argv: [&str; N]) -> CommandView {
    command_of(name, does, argv.iter().map(|word| (*word).to_owned()).collect())
}

fn command_of(name: &'static str, does: &'static str, argv: Vec<String>) -> CommandView {
    let words: Vec<_> = argv.iter().map(|word| quoted(word)).collect();
    let shell = words.join(" ");
    CommandView {
        name,
        does,
        argv,
        shell,
    }
}

/// Where a repository is cloned from on this machine, and what git has to be told beside it.
fn clone_url(api: &Api, address: SocketAddr, repository: &RepoName) -> Option<(String, Option<String>)> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, address.port());
    let options = &api.house.options;
    if !options.letta_memfs {
        let (prefix, name) = (&options.url_prefix, repository.canonical());
        return Some((format!("http://{address}{prefix}/{name}"), None));
    }
    // {organization}/{agent}/repo
    let mut parts = repository.canonical().split('/');
    let (organization, agent) = (parts.next()?, parts.next()?);
    let header = format!("http.extraHeader=X-Organization-Id: {organization}");
    Some((format!("http://{address}/git/{agent}/state.git"), Some(header)))
}

/// The commands that make sense for what there is. A path that is no text is in none.
fn commands(
    name: &str,
    server: SocketAddr,
    found: &Attachment,
    place: &PlaceView,
    header: Option<String>,
) -> Vec<CommandView> {
    let mut all = Vec::new();
    let runs = found.process.is_some();
    if let Some(cwd) = found.cwd.as_deref().and_then(Path::to_str) {
        let does = "a shell in the directory where it begins";
        all.push(command("shell", does, ["sh", "-c", SHELL, "sh", cwd]));
    }
    if let Some(container) = found.container.as_ref().filter(|_| runs)
        && let Some(dir) = container.dir.to_str()
    {
        let mut argv = vec![container.program.as_str(), "exec", "-it"];
        argv.extend(container.user.iter().flat_map(|user| ["-u", user]));
        argv.extend(["-w", dir, &container.name, "sh"]);
        let argv = argv.into_iter().map(str::to_owned).collect();
        all.push(command_of("enter", "a shell in its container", argv));
        let argv = [&container.program, "inspect", &container.name];
        all.push(command("inspect", "what the engine knows of its container", argv));
    }
    let output: Vec<_> = found
        .spool
        .iter()
        .filter_map(|(_, files)| files.first()?.to_str())
        .collect();
    if !output.is_empty() {
        let argv = ["tail", "-n", "50", "-F", "--"].into_iter().chain(output);
        let does = "what it has written, and writes";
        all.push(command_of("output", does, argv.map(str::to_owned).collect()));
    }
    let server = format!("http://{server}");
    let argv = ["gitstead", "agent", "events", "--follow", "--server", &server, name];
    all.push(command("events", "what happens with it", argv));
    if let Some(process) = &found.process {
        let pid = process.pid.to_string();
        let columns = "pid,ppid,user,lstart,stat,rss,args";
        all.push(command("process", "its process", ["ps", "-o", columns, "-p", &pid]));
    }
    if let Some(parent) = &found.parent {
        let pid = parent.pid.to_string();
        all.push(command("tree", "all of its processes", ["pstree", "-alp", &pid]));
    }
    if let Some(dir) = found.cgroup.as_deref().and_then(Path::to_str) {
        let procs = format!("{dir}/cgroup.procs");
        all.push(command("cgroup", "the processes in its cgroup", ["cat", &procs]));
    }
    if let Some(url) = &place.clone_url {
        let mut argv = vec!["git".to_owned()];
        argv.extend(header.into_iter().flat_map(|header| ["-c".to_owned(), header]));
        argv.push("clone".to_owned());
        if let Some(branch) = place
            .branch
            .as_deref()
            .and_then(|name| name.strip_prefix("refs/heads/"))
        {
            argv.push(format!("--branch={branch}"));
        }
        argv.extend(["--".to_owned(), url.clone()]);
        all.push(command_of("clone", "its checkpoints", argv));
    }
    all
}

/// For whoever may see what the agent writes.
pub(super) async fn attach(State(api): State<Arc<Api>>, who: Who, at: At) -> Answer {
    let entry = entry(&api, &who, at, Deed::Talk).await?;
    let record = entry.record();
    if !entry.was_started() {
        let text = format!("agent '{}' was never started: there is nothing to look at", record.name);
        return Err(ApiError::new(StatusCode::CONFLICT, "not_started", text));
    }
    let (agents, address) = (doors(&api)?.agents.clone(), doors(&api)?.address);
    let view = api
        .work(move |api| {
            let record = entry.record();
            let place = record.spec.place()?;
            // One that is gone takes nothing from what else is true.
            let workspaces = api.depot.workspaces(&place.repository).unwrap_or_default();
            let workspace = workspaces.into_iter().find(|one| one.name == place.workspace);
            let found = agents.attachment(&entry, workspace.as_ref().map(|one| one.root.as_path()));
            let shown = |path: &Path| path.to_string_lossy().into_owned();
            let (url, header) = workspace
                .as_ref()
                .and_then(|_| clone_url(api, address, &place.repository))
                .unzip();
            let of_workspace = PlaceView {
                repository: record.spec.repository.clone(),
                name: record.spec.workspace.clone(),
                branch: workspace
                    .as_ref()
                    .and_then(|one| Some(one.branch.as_ref()?.to_string())),
                path: workspace.as_ref().map(|one| shown(&one.root)),
                cwd: found.cwd.as_deref().map(shown),
                clone_url: url,
            };
            let name = record.name.to_string();
            Ok(AttachView {
                commands: commands(&name, address, &found, &of_workspace, header.flatten()),
                name,
                state: entry.state().as_str(),
                run: record.run,
                running: found.process.is_some(),
                workspace: of_workspace,
                process: found.process.map(ProcessView::from),
                parent: found.parent.map(ProcessView::from),
                cgroup: found.cgroup.as_deref().map(shown),
                container: found.container.as_ref().map(|one| ContainerView {
                    name: one.name.clone(),
                    user: one.user.clone(),
                    dir: shown(&one.dir),
                }),
                output: found
                    .spool
                    .iter()
                    .map(|(stream, files)| OutputView {
                        stream: *stream,
                        files: files.iter().map(|path| shown(path)).collect(),
                    })
                    .collect(),
            })
        })
        .await?;
    Ok(json(StatusCode::OK, &view))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_a_shell_is_the_same_word_again() {
        for (word, expected) in [
            ("", "''"),
            ("/data/work/demo/main", "/data/work/demo/main"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$(x)`y`\"\\\n", "'$(x)`y`\"\\\n'"),
            ("~", "'~'"),
            ("ü", "'ü'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
        let made = command("x", "", ["sh", "-c", SHELL, "sh", "/a b/it's"]);
        assert_eq!(
            made.shell,
            r#"sh -c 'cd -- "$1" && exec "${SHELL:-sh}"' sh '/a b/it'\''s'"#
        );
    }
}
