//! What can be asked, path by path.

use serde_json::{Map, Value};

use super::words::Op;

const LIMIT: (&str, &str, &str) = ("limit", "int", "At most so many.");
const EVENTS: &str = "Each with its number as `id`, its type as `event`, and the event as `data`.";

fn repositories(paths: &mut Map<String, Value>) {
    let (all, one) = ("/api/v1/repos", "/api/v1/repos/{name}");
    Op::new(
        "listRepositories",
        "repositories",
        "The repositories that one may look at",
    )
    .query(&[("after", "string", "Names after this one."), LIMIT])
    .gives(200, "A page of them.", "#Repositories")
    .at(paths, "get", all);
    Op::new("createRepository", "repositories", "Make a repository")
        .takes("#NewRepository")
        .gives(201, "It is made.", "#Repository")
        .located()
        .fails(409, "There is one, or something in its way.")
        .at(paths, "post", all);
    Op::new("showRepository", "repositories", "One repository")
        .gives(200, "It.", "#Repository")
        .fails(404, "There is none, or none that one may look at.")
        .at(paths, "get", one);
    Op::new(
        "changeRepository",
        "repositories",
        "Rename a repository, or have its HEAD name another branch",
    )
    .takes("#RepositoryChange")
    .gives(200, "As it is now.", "#Repository")
    .at(paths, "patch", one);
    Op::new("deleteRepository", "repositories", "Delete a repository")
        .done(204, "It is gone.")
        .at(paths, "delete", one);
}

fn workspaces(paths: &mut Map<String, Value>) {
    let one = |rest: &str| format!("/api/v1/workspaces/{{repository}}/{{workspace}}{rest}");
    let op = |id, says| Op::new(id, "workspaces", says);
    op("listAllWorkspaces", "The workspaces of all repositories")
        .query(&[("after", "string", "Repositories after this one.")])
        .gives(200, "A page of them.", "#WorkspacesOfAll")
        .at(paths, "get", "/api/v1/workspaces");
    op("listWorkspaces", "The workspaces of a repository")
        .gives(200, "All of them.", "#Workspaces")
        .at(paths, "get", "/api/v1/workspaces/{repository}");
    op("createWorkspace", "Make a workspace")
        .takes("#NewWorkspace")
        .gives(201, "It is made.", "#Workspace")
        .located()
        .fails(409, "There is one, or it cannot begin so.")
        .at(paths, "post", "/api/v1/workspaces/{repository}");
    op("showWorkspace", "One workspace")
        .gives(200, "It.", "#Workspace")
        .at(paths, "get", &one(""));
    op("removeWorkspace", "Remove a workspace; its branch stays")
        .query(&[(
            "unsaved",
            "refuse|checkpoint|discard",
            "What becomes of what is not recorded; `refuse` without it.",
        )])
        .done(204, "It is gone.")
        .fails(409, "There is something unsaved.")
        .at(paths, "delete", &one(""));
    op("listCheckpoints", "The log, newest first")
        .query(&[
            ("at", "string", "From this commit on; HEAD without it."),
            ("tool", "string", ""),
            ("agent", "string", ""),
            ("session", "string", ""),
            ("path", "string", "Those that changed this."),
            ("changed", "bool", "Those that changed any file."),
            ("all", "bool", "Other commits, too."),
            ("shadow", "bool", "Those beside the branch."),
            LIMIT,
            ("cursor", "string", "`next` of the page before."),
        ])
        .gives(200, "A page of it.", "#Log")
        .at(paths, "get", &one("/checkpoints"));
    op("recordCheckpoint", "Record the workspace as it is")
        .takes("#NewCheckpoint")
        .gives(201, "A checkpoint was made.", "#Checkpoint")
        .located()
        .gives(200, "Nothing was recorded.", "#Checkpoint")
        .at(paths, "post", &one("/checkpoints"));
    op("showCheckpoint", "One checkpoint, with the files that it changed")
        .gives(200, "It.", "#Shown")
        .at(paths, "get", &one("/checkpoints/{checkpoint}"));
    op(
        "diff",
        "What differs between two commits, or a commit and the files as they are",
    )
    .query(&[
        ("from", "string", "HEAD without it."),
        ("to", "string", "`live` without it: the files as they are."),
        ("path", "string", "Below this."),
        ("stat", "bool", "Without lines."),
    ])
    .gives(200, "The difference.", "#Diff")
    .at(paths, "get", &one("/diff"));
    op("readFile", "A file as it was")
        .query(&[("at", "string", "In this commit; HEAD without it.")])
        .gives_as(200, "Its bytes.", "application/octet-stream")
        .fails(413, "It is larger than 32 MiB.")
        .at(paths, "get", &one("/files/{path}"));
    for (id, rest, says) in [
        ("listRoot", "/tree", "What is in the root directory"),
        ("listDirectory", "/tree/{path}", "What is in a directory"),
    ] {
        op(id, says)
            .query(&[
                ("at", "string", "In this commit; HEAD without it."),
                ("after", "string", "`next` of the page before."),
                LIMIT,
            ])
            .gives(200, "A page of it.", "#Tree")
            .at(paths, "get", &one(rest));
    }
    for (id, rest, says) in [
        (
            "restore",
            "/restore",
            "Have files be as they were at a checkpoint, by a new one",
        ),
        ("undo", "/undo", "Take back what a checkpoint changed, by a new one"),
    ] {
        op(id, says)
            .takes("#Back")
            .gives(200, "What was done, or would be.", "#Restored")
            .gives(409, "It does not go together with what came later.", "#Conflicts")
            .at(paths, "post", &one(rest));
    }
    op("createBranch", "Make a branch at a checkpoint")
        .takes("#NewBranch")
        .gives(201, "It is made.", "#Branch")
        .at(paths, "post", &one("/branches"));
    op("squash", "Make one commit of many, on another branch")
        .takes("#Squash")
        .gives(201, "It is made.", "#Squashed")
        .gives(409, "It does not go together with what it is put on.", "#Conflicts")
        .at(paths, "post", &one("/squash"));
}

fn agents(paths: &mut Map<String, Value>) {
    let one = |rest: &str| format!("/api/v1/agents/{{agent}}{rest}");
    let op = |id, says| Op::new(id, "agents", says);
    op("listAgents", "The agents whose repositories one may look at")
        .query(&[("repository", "string", "Those of this one.")])
        .gives(200, "All of them.", "#Agents")
        .at(paths, "get", "/api/v1/agents");
    op("createAgent", "Make an agent, and start it")
        .takes("#NewAgent")
        .gives(201, "It is made.", "#Agent")
        .located()
        .fails(409, "There is one of that name.")
        .fails(422, "It cannot be started, and is not there.")
        .at(paths, "post", "/api/v1/agents");
    op("showAgent", "One agent")
        .gives(200, "It.", "#Agent")
        .at(paths, "get", &one(""));
    op("removeAgent", "Forget an agent that has ended; its checkpoints stay")
        .done(204, "It is forgotten.")
        .fails(409, "It runs.")
        .at(paths, "delete", &one(""));
    for (id, what, says) in [
        ("startAgent", "/start", "Start an agent, unless it runs"),
        ("stopAgent", "/stop", "Stop an agent, gently; asked again, less so"),
        ("killAgent", "/kill", "Kill all processes of an agent"),
        ("restartAgent", "/restart", "Stop an agent and start it again"),
    ] {
        op(id, says)
            .gives(202, "It has heard.", "#Agent")
            .at(paths, "post", &one(what));
    }
    op(
        "attachAgent",
        "Where an agent is on the server's machine, and commands to look at it with",
    )
    .gives(200, "As far as it is true now, or still.", "#Attachment")
    .fails(409, "It was never started.")
    .at(paths, "get", &one("/attach"));
    op(
        "waitForAgent",
        "Wait for an agent, and say what it is then, whether that came true or not",
    )
    .query(&[
        ("until", "ended|ready|idle", "`ended` without it."),
        ("timeout_ms", "int", "A minute at most."),
    ])
    .gives(200, "What it is.", "#Agent")
    .at(paths, "get", &one("/wait"));
    op("readLogs", "What an agent writes")
        .query(&[
            ("after", "int", "Lines after this number."),
            ("lines", "int", "Without `after`: so many of the last ones."),
            (
                "follow",
                "bool",
                "Whether more is sent as it comes, as events `line`, `missed` and `end`.",
            ),
        ])
        .header("Last-Event-ID", "int", "As `after`.")
        .gives(200, "Lines.", "#LogLines")
        .or_events("With `follow`: `line` with a line, `missed` with how many were not remembered, `end` at the end.")
        .at(paths, "get", &one("/logs"));
    op("readOutput", "What an agent has written, byte for byte but for secrets")
        .about("`Gitstead-Offset` is the position of the first byte, later than asked for where that is not kept any more, and `Gitstead-End` the one behind the last byte there is.")
        .query(&[
            ("stream", "stdout|stderr", "`stdout` without it."),
            ("offset", "int", "The position of the first byte; events tell positions."),
            ("limit", "int", "At most so many bytes, and a megabyte."),
        ])
        .gives_as(200, "Bytes.", "application/octet-stream")
        .at(paths, "get", &one("/output"));
    op("readEvents", "What happens with an agent")
        .query(&[
            ("after", "int", "Events after this number."),
            LIMIT,
            ("until_ended", "bool", "Whether the stream ends when the agent has."),
            (
                "output",
                "bool",
                "Whether the stream has lines of output between the events, as `output` and `output_missed`.",
            ),
        ])
        .header(
            "Last-Event-ID",
            "string",
            "As `after`, or that and a line of output with a dot between.",
        )
        .gives(200, "Events, oldest first.", "#Events")
        .or_events(EVENTS)
        .at(paths, "get", &one("/events"));
    op("writeInput", "Write to the standard input of an agent")
        .takes("#Input")
        .done(204, "It is taken.")
        .fails(409, "It takes none.")
        .at(paths, "post", &one("/input"));
    op("tellAgent", "Give an agent a message")
        .takes("#Message")
        .gives(202, "It is taken.", "#Asked")
        .fails(409, "It takes none.")
        .at(paths, "post", &one("/ask"));
    op(
        "changeAgent",
        "Have an agent that runs go on with another model, or in another mode",
    )
    .takes("#AgentChange")
    .done(202, "It is told.")
    .fails(409, "It cannot be told.")
    .at(paths, "post", &one("/change"));
    op("interruptAgent", "Stop what an agent does, in its protocol")
        .done(202, "It has heard.")
        .fails(409, "There is nothing to interrupt.")
        .at(paths, "post", &one("/interrupt"));
    op("listPermissions", "What an agent wants to be allowed")
        .gives(200, "What waits for an answer.", "#Permissions")
        .at(paths, "get", &one("/permissions"));
    op("decidePermission", "Allow or deny something")
        .takes("#Decision")
        .done(204, "It is told.")
        .fails(404, "This question is not open (any more).")
        .at(paths, "post", &one("/permissions/{request}"));
}

fn sessions(paths: &mut Map<String, Value>) {
    let one = |rest: &str| format!("/api/v1/agents/{{agent}}/sessions{rest}");
    let op = |id, says| Op::new(id, "sessions", says);
    op("createSession", "Begin a session with an agent")
        .gives(201, "It is begun.", "#Session")
        .located()
        .about("May have a body: an object without members.")
        .at(paths, "post", &one(""));
    op("listSessions", "One's own sessions with an agent, newest first")
        .query(&[("cursor", "string", "Of the page before."), LIMIT])
        .gives(200, "A page of them.", "#Sessions")
        .at(paths, "get", &one(""));
    op("showSession", "One session")
        .gives(200, "It.", "#Session")
        .fails(404, "There is none, or it is somebody else's.")
        .at(paths, "get", &one("/{session}"));
    op("closeSession", "Close a session, and forget what was said")
        .done(204, "It is closed.")
        .at(paths, "delete", &one("/{session}"));
    op("ask", "Ask something, and wait for the answer")
        .about("Whoever leaves has the turn interrupted.")
        .takes("#Question")
        .gives(200, "The answer.", "#Answer")
        .or_events("What the agent does as it comes, as of `readEvents`; at last one event `answer` or `error`.")
        .fails(
            429,
            "One asks too often, or too much at a time; `Retry-After` says when.",
        )
        .fails(502, "The agent has ended.")
        .fails(504, "It took too long.")
        .at(paths, "post", &one("/{session}/ask"));
    op("interruptSession", "Stop what is done for the last question")
        .done(202, "It has heard.")
        .fails(409, "There is nothing to interrupt.")
        .at(paths, "post", &one("/{session}/interrupt"));
    op(
        "listSessionPermissions",
        "What the agent of a session wants to be allowed",
    )
    .gives(200, "What waits for an answer.", "#Permissions")
    .at(paths, "get", &one("/{session}/permissions"));
    op("decideSessionPermission", "Allow or deny something")
        .takes("#Decision")
        .done(204, "It is told.")
        .fails(404, "This question is not open (any more).")
        .at(paths, "post", &one("/{session}/permissions/{request}"));
    op(
        "readHistory",
        "What was said, the last of it first in pages, oldest first in each",
    )
    .query(&[("cursor", "string", "Of the page before."), LIMIT])
    .gives(200, "A page of it.", "#History")
    .at(paths, "get", &one("/{session}/history"));
}

fn classic(paths: &mut Map<String, Value>) {
    let op = |id, says| Op::new(id, "ask service", says).classic();
    let refused = |op: Op, status, says| op.gives(status, says, "#Detail");
    op("health", "Whether questions can be asked")
        .open()
        .gives(200, "They can.", "#Health")
        .at(paths, "get", "/agent/health");
    op("ready", "Whether a question would be answered now, and what that takes")
        .gives(200, "It would.", "#Readiness")
        .gives(503, "It would not.", "#Readiness")
        .at(paths, "get", "/agent/ready");
    op("newSession", "Begin a session")
        .gives(200, "It is begun.", "#ClassicSession")
        .at(paths, "post", "/agent/sessions/new");
    let asking = op("askAgent", "Ask something, and wait for the answer")
        .takes("#ClassicQuestion")
        .gives(200, "The answer.", "#ClassicAnswer");
    let asking = refused(
        asking,
        429,
        "One asks too often, or too much at a time; `Retry-After` says when.",
    );
    let asking = refused(asking, 502, "The agent has failed.");
    refused(asking, 504, "It took too long.").at(paths, "post", "/agent/ask");
    op("sessionHistory", "What was said")
        .gives(
            200,
            "All of it, oldest first; nothing where nothing was said.",
            "#ClassicHistory",
        )
        .at(paths, "get", "/agent/sessions/{session}/history");
    op("askServiceDescription", "This description, of the ask service alone")
        .open()
        .gives(200, "An OpenAPI document.", "any")
        .at(paths, "get", "/agent/openapi.json");
}

/// All of them.
pub(super) fn all() -> Map<String, Value> {
    let mut paths = Map::new();
    repositories(&mut paths);
    workspaces(&mut paths);
    agents(&mut paths);
    sessions(&mut paths);
    classic(&mut paths);
    let op = |id, says| Op::new(id, "server", says);
    op("description", "This description")
        .open()
        .gives(200, "An OpenAPI document.", "any")
        .at(&mut paths, "get", "/api/v1/openapi.json");
    op("metrics", "What is counted and what waits, as Prometheus reads it")
        .about("For callers on this machine, and for those with a token.")
        .gives_as(200, "Metrics.", "text/plain")
        .at(&mut paths, "get", "/metrics");
    paths
}
