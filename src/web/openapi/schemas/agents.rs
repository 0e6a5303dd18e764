use serde_json::{Value, json};

use super::{object, schema};

pub(super) fn agents(add: &mut impl FnMut(&str, Value)) {
    let states = "created|starting|ready|busy|idle|waiting_permission|stopping|restarting|stopped|exited|failed|crash_looping|lost";
    add("AgentState", schema(states));
    add(
        "Isolation",
        object(
            "What the system holds it in.",
            &[
                ("cgroup", "bool", "Whether it has one of its own."),
                ("limits", "[string]", "Bounds of all of it together that hold."),
                ("missing", "[string]", "Those that do not, with the reason."),
                ("landlock", "int?", "The version that bounds which files it can reach."),
                (
                    "seccomp",
                    "bool",
                    "Whether it is kept from calls of the kernel that programs do not need.",
                ),
                (
                    "no_network",
                    "bool",
                    "Whether it has a network of its own, with nothing in it but loopback.",
                ),
                (
                    "connect",
                    "[int]?",
                    "The TCP ports to which it can connect, where that is bounded.",
                ),
                (
                    "bind",
                    "[int]?",
                    "The TCP ports on which it can listen, where that is bounded.",
                ),
                ("container", "string?", ""),
            ],
        ),
    );
    add(
        "Agent",
        object(
            "Whoever may only look sees of `argv`, `env`, `secrets`, `session`, `stragglers`, `last_words` and `label` nothing.",
            &[
                ("name", "string", ""),
                ("label", "string?", ""),
                (
                    "trace",
                    "string?",
                    "The id of its trace (W3C Trace Context): that of the header `traceparent` with which it was made, or one of its own.",
                ),
                ("repository", "string", ""),
                ("workspace", "string", ""),
                ("dialect", "string", ""),
                ("argv", "[string]", ""),
                ("cwd", "string", ""),
                ("env", "[string]", "Names only."),
                ("secrets", "[string]", "Names only."),
                ("owner", "string?", ""),
                (
                    "source",
                    "string?",
                    "What it was made from: `preset:claude`, `api`, `config`, `session:claude-1`.",
                ),
                (
                    "permissions",
                    "[#PermissionRule]",
                    "What is decided without asking anybody: the first that is meant.",
                ),
                ("restart", "never|on-failure|always", ""),
                ("state", "#AgentState", ""),
                ("ended", "bool", ""),
                ("run", "int", "How often it was started."),
                ("pid", "int?", ""),
                ("exit_code", "int?", ""),
                ("signal", "int?", ""),
                ("failure", "string?", "Why it could not be started."),
                (
                    "cause",
                    "asked|restart|shutdown|orphaned|watchdog?",
                    "Why it was stopped.",
                ),
                (
                    "watchdog",
                    "start|silence|tool|permission|turn|linger|wall|turns|cost?",
                    "The watchdog that had it stopped.",
                ),
                (
                    "out_of_memory",
                    "int",
                    "Processes of it that the system has ended for want of memory.",
                ),
                ("core", "bool", "Whether it left a core."),
                (
                    "unfit",
                    "login|arguments|configuration?",
                    "Why it is not started again: it would end the same way.",
                ),
                (
                    "last_words",
                    "string?",
                    "The last lines of its standard error, if it has failed.",
                ),
                ("swept", "int", "Processes it had left behind, which were killed."),
                ("stragglers", "[string]", "Processes that could not be killed."),
                ("sandbox", "off|best-effort|required", ""),
                ("container", "string?", ""),
                ("isolation", "#Isolation?", ""),
                (
                    "workspace_bytes",
                    "int?",
                    "On the disk, when it was last looked at, where the watchdog `disk` bounds that.",
                ),
                ("program_version", "string?", "Where that was asked for."),
                ("session", "string?", "Its own name of its conversation."),
                ("checkpoint", "string?", "The last one."),
                ("checkpoints", "int", ""),
                ("created_at", "time", ""),
                ("updated_at", "time", "When anything of this changed the last time."),
                ("started_at", "time?", ""),
                ("ended_at", "time?", ""),
            ],
        ),
    );
    add(
        "PermissionRule",
        object(
            "An answer to questions for permission that is given without asking anybody.",
            &[
                ("decision", "allow|deny|ask", ""),
                (
                    "tool",
                    "string",
                    "By the agent's name of it; `*` stands for any characters.",
                ),
                (
                    "matches?",
                    "string",
                    "By the command, path or address; `*` stands for any characters. A command with another one in it is never allowed so; what is denied may be any part.",
                ),
            ],
        ),
    );
    add("Agents", object("", &[("agents", "[#Agent]", "")]));
    add(
        "NewAgent",
        object(
            "A command (`argv`), or a `preset`.",
            &[
                ("repository", "string", ""),
                ("name?", "string", ""),
                ("workspace?", "string", "`main` without it."),
                ("argv?", "[string]", ""),
                ("args?", "[string]", "Behind those of the preset."),
                ("dialect?", "string", ""),
                ("preset?", "string", ""),
                ("model?", "string", ""),
                ("permission_mode?", "string", ""),
                (
                    "pointers?",
                    "any",
                    "Where lines of JSON say what, for the dialect `ndjson`.",
                ),
                ("approval_policy?", "string", ""),
                ("partial?", "bool", "Whether what it says is told in pieces, too."),
                ("auth_method?", "string", "How an agent of ACP is logged in."),
                ("letta?", "#Letta", ""),
                ("env?", "{string}", ""),
                (
                    "secrets?",
                    "{string}",
                    "Names of variables, and the files that their values are in.",
                ),
                ("inherit?", "[string]", ""),
                ("cwd?", "string", "In the workspace."),
                ("task?", "string", ""),
                ("message?", "string", "Its first one."),
                ("label?", "string", ""),
                (
                    "hooks?",
                    "bool",
                    "Whether Codex is told to have each tool recorded before it goes on.",
                ),
                ("trace?", "string", "Without it that of the header `traceparent`."),
                ("restart?", "never|on-failure|always", ""),
                ("restart_first_ms?", "int", ""),
                ("restart_most_ms?", "int", ""),
                ("restart_stable_ms?", "int", ""),
                ("restart_window_ms?", "int", ""),
                ("restart_burst?", "int", ""),
                (
                    "quiet_ms?",
                    "int",
                    "How long files are left alone before there is a checkpoint of a command that tells of no tools.",
                ),
                (
                    "patience_ms?",
                    "int",
                    "How long an agent waits for its checkpoint at most.",
                ),
                (
                    "answer_within_ms?",
                    "int",
                    "How long questions for permission wait; 0 for ever.",
                ),
                (
                    "permissions?",
                    "[#PermissionRule]",
                    "The first that is meant decides; what none is meant for is asked.",
                ),
                ("ladder?", "#Ladder", ""),
                (
                    "watchdogs?",
                    "{#Watchdog}",
                    "By name: start, silence, tool, permission, turn, linger, wall, turns, cost, disk.",
                ),
                ("bounds?", "#Bounds", ""),
                ("sandbox?", "#Sandbox", ""),
                ("container?", "#Container", ""),
                ("start?", "bool", "Whether it is started at once; true without it."),
            ],
        ),
    );
    add(
        "Letta",
        object(
            "What only Letta Code can be told; also under the names of its SDK (`agentId`).",
            &[
                ("agent_id?", "string", ""),
                ("conversation_id?", "string", ""),
                ("new_conversation?", "bool", ""),
                ("default_conversation?", "bool", ""),
                ("create_only?", "bool", "A new agent."),
                ("embedding?", "string", ""),
                (
                    "system_prompt?",
                    "any",
                    "A text, or an object with `preset` and `append`.",
                ),
                (
                    "memory?",
                    "[any]",
                    "Names, objects with `label` and `value`, or objects with `block_id`.",
                ),
                ("persona?", "string", ""),
                ("human?", "string", ""),
                ("allowed_tools?", "[string]", ""),
                ("disallowed_tools?", "[string]", ""),
                ("tags?", "[string]", ""),
                ("memfs?", "bool", ""),
                ("memfs_startup?", "string", ""),
                ("skill_sources?", "[string]", ""),
                ("system_info_reminder?", "bool", ""),
                ("sleeptime?", "#Sleeptime", ""),
                (
                    "version?",
                    "string",
                    "Of the one that is installed, instead of asking it.",
                ),
            ],
        ),
    );
    add(
        "Sleeptime",
        object(
            "When Letta reflects.",
            &[
                ("trigger?", "string", ""),
                ("behavior?", "string", ""),
                ("step_count?", "int", ""),
            ],
        ),
    );
    add(
        "Ladder",
        object(
            "How long each step of stopping may take.",
            &[
                ("interrupt_ms?", "int", ""),
                ("end_of_input_ms?", "int", ""),
                ("terminate_ms?", "int", ""),
                ("verify_ms?", "int", ""),
            ],
        ),
    );
    add(
        "Watchdog",
        object(
            "",
            &[
                ("after_ms?", "int", ""),
                ("most?", "int", "For `turns`."),
                ("most_usd?", "number", "For `cost`."),
                ("most_bytes?", "int", "For `disk`: of the workspace."),
                ("action", "warn|interrupt|stop", ""),
            ],
        ),
    );
    add(
        "Bounds",
        object(
            "",
            &[
                ("open_files?", "int", "Of each process."),
                ("address_space?", "int", "Of each process, in bytes."),
                ("processes?", "int", "Of the user."),
                ("new_privileges?", "bool", ""),
                ("oom_score_adj?", "int", ""),
                ("umask?", "int", ""),
                ("memory?", "int", "Of all of it together, in bytes; needs a cgroup."),
                (
                    "memory_high?",
                    "int",
                    "From which on all of it together is slowed down, in bytes; needs a cgroup.",
                ),
                ("tasks?", "int", "Of all of it together; needs a cgroup."),
                ("cpu_percent?", "int", "Of all of it together; needs a cgroup."),
                ("file_bytes?", "int", "Of each file that it writes."),
                (
                    "io_bytes_per_second?",
                    "int",
                    "Of the disk that has its workspace, each way, for all of it together; needs a cgroup.",
                ),
            ],
        ),
    );
    add(
        "Sandbox",
        object(
            "",
            &[
                ("mode?", "off|best-effort|required", ""),
                ("read?", "[string]", "What it can read and execute, too."),
                ("write?", "[string]", "What it can write, too."),
                ("user_namespaces?", "bool", "Whether it may make namespaces of its own."),
                (
                    "network?",
                    "bool",
                    "False for one of its own, with nothing in it but loopback.",
                ),
                (
                    "connect?",
                    "[int]",
                    "The TCP ports to which it can connect; all without a list.",
                ),
                (
                    "bind?",
                    "[int]",
                    "The TCP ports on which it can listen, 0 for any that the system picks; all without a list.",
                ),
            ],
        ),
    );
    add(
        "Container",
        object(
            "",
            &[
                ("name", "string", ""),
                ("home?", "string", "Its home directory there."),
                ("user?", "string", ""),
                ("workspace?", "string", "Where it has the workspace."),
            ],
        ),
    );
    add(
        "LogLine",
        object(
            "",
            &[
                ("seq", "int?", "Null for those of an earlier server."),
                ("at_ms", "int?", "Since 1970."),
                ("stream", "stdout|stderr", ""),
                ("text", "string", ""),
                ("dropped", "int", "Bytes of a long line that are not kept."),
            ],
        ),
    );
    add(
        "LogLines",
        object(
            "",
            &[
                ("lines", "[#LogLine]", ""),
                ("missed", "int", "Lines that are not remembered any more."),
                (
                    "restarted?",
                    "bool",
                    "The numbers begin anew: those that were asked for are of an earlier server.",
                ),
                ("cursor", "int", "For `after`."),
            ],
        ),
    );
    let event = json!({
        "type": "object",
        "description": "Has more members, by its type.",
        "properties": { "seq": schema("int"), "at_ms": schema("int"), "type": schema("string"), "agent": schema("string") },
        "required": ["seq", "at_ms", "type", "agent"],
    });
    add("Event", event);
    add(
        "Events",
        object("", &[("events", "[#Event]", ""), ("cursor", "int", "For `after`.")]),
    );
    add(
        "Input",
        object(
            "`text` or `base64`, or only `close`.",
            &[
                ("text?", "string", ""),
                ("base64?", "string", ""),
                ("close?", "bool", "End its input afterwards."),
            ],
        ),
    );
    add("Message", object("", &[("message", "string", "")]));
    add(
        "AgentChange",
        object(
            "One of them at least.",
            &[
                ("model?", "string", ""),
                ("permission_mode?", "string", "In the agent's own word."),
            ],
        ),
    );
    add(
        "Asked",
        object(
            "",
            &[
                (
                    "seq",
                    "int",
                    "The number of the event that has the message; what comes of it comes after that.",
                ),
                (
                    "message_id",
                    "string",
                    "Our name of it: the events of its turn have it.",
                ),
            ],
        ),
    );
    add(
        "Permission",
        object(
            "What it wants to be allowed.",
            &[
                ("request", "string", "Names it."),
                ("call", "string?", ""),
                ("tool", "string", ""),
                ("name", "string", "The tool as the agent names it, and rules do."),
                ("summary", "string", ""),
                ("input", "string", "As the agent tells it."),
                ("remembers", "bool", "Whether `always` is remembered."),
            ],
        ),
    );
    add("Permissions", object("", &[("permissions", "[#Permission]", "")]));
    add(
        "Decision",
        object(
            "",
            &[
                ("decision", "allow|always|deny", ""),
                ("message?", "string", "Why it is denied, for the agent."),
                ("stop?", "bool", "Whether a refusal ends the turn."),
            ],
        ),
    );
    add(
        "Process",
        object(
            "",
            &[
                ("pid", "int", ""),
                ("started_at", "time?", ""),
                ("start_ticks", "int", "Field 22 of `/proc/PID/stat`."),
            ],
        ),
    );
    add(
        "Attachment",
        object(
            "Where an agent is on the server's machine.",
            &[
                ("name", "string", ""),
                ("state", "#AgentState", ""),
                ("run", "int", ""),
                ("running", "bool", "Whether it has a process now."),
                ("workspace", "#AttachedWorkspace", ""),
                ("process", "#Process?", "In a container that of the engine's client."),
                (
                    "parent",
                    "#Process?",
                    "Below it are all processes of the agent, unless it is in a container.",
                ),
                ("cgroup", "string?", ""),
                ("container", "#AttachedContainer?", ""),
                ("output", "[#AttachedOutput]", ""),
                ("commands", "[#AttachedCommand]", ""),
            ],
        ),
    );
    add(
        "AttachedWorkspace",
        object(
            "",
            &[
                ("repository", "string", ""),
                ("name", "string", ""),
                ("branch", "string?", ""),
                ("path", "string?", "Null when it is not there any more."),
                ("cwd", "string?", "Where the agent begins."),
                ("clone_url", "string?", ""),
            ],
        ),
    );
    add(
        "AttachedContainer",
        object(
            "",
            &[("name", "string", ""), ("user", "string?", ""), ("dir", "string", "")],
        ),
    );
    add(
        "AttachedOutput",
        object(
            "",
            &[
                ("stream", "stdout|stderr", ""),
                ("files", "[string]", "The newest first."),
            ],
        ),
    );
    add(
        "AttachedCommand",
        object(
            "",
            &[
                ("name", "string", ""),
                ("does", "string", ""),
                ("argv", "[string]", ""),
                ("shell", "string", "The same, quoted for a POSIX shell."),
            ],
        ),
    );
}
