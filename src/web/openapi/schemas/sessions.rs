use serde_json::{Value, json};

use super::object;
use crate::session::QUESTION;

pub(super) fn sessions(add: &mut impl FnMut(&str, Value)) {
    add(
        "Session",
        object(
            "",
            &[
                ("id", "string", ""),
                ("agent", "string", "Which it is a session with."),
                ("owner", "string", ""),
                (
                    "answered_by",
                    "string?",
                    "The agent of its own, since somebody has asked.",
                ),
                ("state", "string", "`new`, or what that agent is."),
                ("busy", "bool", "Whether there is a question in it."),
                ("conversation", "string?", "The agent's own name of it."),
                ("questions", "int", ""),
                ("created_at", "time", ""),
                ("asked_at", "time?", ""),
            ],
        ),
    );
    add(
        "Sessions",
        object(
            "",
            &[("sessions", "[#Session]", "Newest first."), ("cursor", "string?", "")],
        ),
    );
    add("NewSession", object("Nothing is said about one yet.", &[]));
    let mut question = object(
        "",
        &[
            ("message", "string", ""),
            ("stream?", "bool", "As `Accept: text/event-stream`."),
        ],
    );
    question["properties"]["message"]["minLength"] = json!(1);
    question["properties"]["message"]["maxLength"] = json!(QUESTION);
    add("Question", question);
    add(
        "Answer",
        object(
            "",
            &[
                ("result", "string", "What the agent said at last."),
                ("session_id", "string", ""),
                (
                    "message_id",
                    "string",
                    "Of the question: the events of its turn have it.",
                ),
                ("duration_ms", "int", ""),
                ("num_turns", "int", "Calls of the model."),
                ("is_error", "bool", ""),
                ("outcome", "string", "How the turn ended."),
                ("usage", "any", "What it used, as the event `turn_ended` tells it."),
                ("tools", "int", "Tools that were used."),
                ("checkpoints", "[any]", "Those that were made, as events tell them."),
                ("seq", "int", "The number of the last event of it."),
            ],
        ),
    );
    add(
        "SessionMessage",
        object(
            "",
            &[
                ("id", "string", "A place, for `cursor`."),
                ("role", "string", ""),
                ("text", "string", ""),
                ("timestamp", "time?", ""),
            ],
        ),
    );
    add(
        "History",
        object(
            "",
            &[
                ("messages", "[#SessionMessage]", "Oldest first."),
                ("cursor", "string?", "For what was said before; null at the beginning."),
                (
                    "source",
                    "agent|journal",
                    "The agent's own file, or what we have written down.",
                ),
            ],
        ),
    );
    // As the service that these paths come from has them.
    add("Health", object("", &[("status", "ok", "")]));
    add(
        "Readiness",
        object(
            "",
            &[
                ("status", "ready|not_ready", ""),
                ("dialect", "string", "How the agent speaks."),
                ("program", "string", "Without directories."),
                ("program_found", "bool", ""),
                (
                    "sessions_dir_exists",
                    "bool?",
                    "Whether there is the directory in which the agent keeps its conversations, where that is known. It makes it with the first one.",
                ),
                ("questions", "#ReadinessQuestions", ""),
                ("sessions", "int", "Those that are not closed."),
                ("agents", "int", "Of sessions, that run."),
            ],
        ),
    );
    add(
        "ReadinessQuestions",
        object(
            "",
            &[
                ("running", "int", ""),
                ("waiting", "int", "For an agent that is being started."),
                ("most", "int", "At a time."),
            ],
        ),
    );
    add("ClassicSession", object("", &[("session_id", "string", "")]));
    let mut question = object("", &[("session_id", "string", ""), ("message", "string", "")]);
    question["properties"]["message"]["minLength"] = json!(1);
    question["properties"]["message"]["maxLength"] = json!(QUESTION);
    question["additionalProperties"] = json!(true);
    add("ClassicQuestion", question);
    add(
        "ClassicAnswer",
        object(
            "",
            &[
                ("result", "string", ""),
                ("session_id", "string", ""),
                ("duration_ms", "int", ""),
                ("num_turns", "int", ""),
                ("is_error", "bool", ""),
            ],
        ),
    );
    add(
        "ClassicMessage",
        object(
            "",
            &[
                ("role", "string", ""),
                ("text", "string", ""),
                ("timestamp", "time?", ""),
            ],
        ),
    );
    add("ClassicHistory", object("", &[("messages", "[#ClassicMessage]", "")]));
    add("Detail", object("", &[("detail", "string", "")]));
}
