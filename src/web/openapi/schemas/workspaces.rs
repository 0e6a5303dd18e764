use serde_json::Value;

use super::{Field, object};

const PATH: [Field; 2] = [
    ("path", "string", "As text; bytes that are not UTF-8 are replaced."),
    (
        "path_encoded?",
        "string",
        "Percent-encoded; only where `path` is not the whole truth.",
    ),
];

const CHANGE: [Field; 7] = [
    PATH[0],
    PATH[1],
    ("kind", "added|deleted|modified|type_changed|renamed", ""),
    ("old_path?", "#Path", "Of a renamed file, before."),
    ("similarity?", "int", "Of a renamed file, in percent."),
    ("from", "#Side?", "Null when it was not there."),
    ("to", "#Side?", "Null when it is not there any more."),
];

const PLACE: [Field; 3] = [
    ("reference", "string", "The ref that the commit went to, in full."),
    (
        "placed",
        "branch|shadow|detached|in_progress",
        "Where that is, or why it is beside the branch.",
    ),
    ("in_progress?", "string", "Of what git is in the middle."),
];

const COMMIT: [Field; 9] = [
    ("id", "string", ""),
    ("tree", "string", ""),
    ("parents", "[string]", ""),
    ("subject", "string", "The first paragraph of the message, as one line."),
    ("message", "string", ""),
    ("author", "#Signature", "The agent."),
    ("committer", "#Signature", ""),
    (
        "signed",
        "bool",
        "Whether it carries a signature; nothing is said about its worth.",
    ),
    (
        "checkpoint",
        "#Said?",
        "What the message of a checkpoint says; null for other commits.",
    ),
];

const WORKSPACE: [Field; 5] = [
    ("name", "string", ""),
    ("branch", "string?", "In full; null when it is on none."),
    ("commit", "string?", ""),
    ("managed", "bool", "Whether Gitstead made it."),
    ("state", "ready|creating|removing|missing", ""),
];

fn with(parts: &[&[Field]]) -> Vec<Field> {
    parts.concat()
}

pub(super) fn workspaces(add: &mut impl FnMut(&str, Value)) {
    add("Path", object("", &PATH));
    add("Workspace", object("", &WORKSPACE));
    add("Workspaces", object("", &[("workspaces", "[#Workspace]", "")]));
    let of = [("repository", "string", "")];
    add("WorkspaceOf", object("", &with(&[&of, &WORKSPACE])));
    add(
        "WorkspacesOfAll",
        object(
            "",
            &[
                ("workspaces", "[#WorkspaceOf]", ""),
                ("next", "string?", "For `after` of the next page; null at the end."),
            ],
        ),
    );
    add(
        "NewWorkspace",
        object(
            "One of `task`, `from`, `fork`, or `at`; else it begins where the repository's HEAD is.",
            &[
                ("name", "string", ""),
                (
                    "task?",
                    "string",
                    "Begins with nothing but this; makes the repository if need be.",
                ),
                ("from?", "string", "Begins on this branch."),
                ("at?", "string", "Begins at this commit."),
                ("fork?", "string", "Begins with what this repository has, in a new one."),
                ("branch?", "string", "The branch that it is on."),
            ],
        ),
    );
    add(
        "Side",
        object(
            "",
            &[
                ("mode", "100644|100755|120000|160000", "As git writes it."),
                ("id", "string", "The object."),
            ],
        ),
    );
    add("Change", object("A file that differs.", &CHANGE));
    add(
        "Skipped",
        object(
            "A file that is not recorded, or not as it is.",
            &with(&[
                &PATH,
                &[("reason", "string", "For programs."), ("text", "string", "For people.")],
            ]),
        ),
    );
    add("Why", object("", &with(&[&PATH, &[("text", "string", "")]])));
    add(
        "Checkpoint",
        object(
            "",
            &with(&[
                &[
                    ("commit", "string?", "Null when nothing was recorded."),
                    ("tree", "string", ""),
                    ("parent", "string?", ""),
                ],
                &PLACE,
                &[
                    ("changed", "int", "How many files differ from the commit before."),
                    ("changes", "[#Change]", "The first of them."),
                    ("skipped", "[#Skipped]", ""),
                    ("looked", "watch|scan|scan_after_overflow", "How changes were found."),
                    ("read", "int", "Files that were read."),
                    ("warnings", "[string]", ""),
                    ("took_ms", "number", ""),
                ],
            ]),
        ),
    );
    add(
        "NewCheckpoint",
        object(
            "",
            &[
                ("summary", "string", "What was done."),
                ("tool?", "string", ""),
                ("agent?", "string", ""),
                ("session?", "string", ""),
                ("turn?", "int", ""),
                ("tool_use_ids?", "[string]", ""),
                ("outcome?", "ok|failed|interrupted|background-started", ""),
                ("duration_ms?", "int", ""),
                ("trailers?", "[#Trailer]", ""),
                ("shadow?", "bool", "Beside the branch."),
                ("skip_unchanged?", "bool", "Not if no file has changed."),
            ],
        ),
    );
    add("Trailer", object("", &[("key", "string", ""), ("value", "string", "")]));
    add(
        "Signature",
        object(
            "",
            &[
                ("name", "string", ""),
                ("email", "string", ""),
                ("time", "time", ""),
                ("seconds", "int", "Since 1970."),
            ],
        ),
    );
    add(
        "Said",
        object(
            "",
            &[
                ("tool", "string?", ""),
                ("summary", "string", ""),
                ("agent", "string?", ""),
                ("session", "string?", ""),
                ("turn", "int?", ""),
                ("tool_use_ids", "[string]", ""),
                ("outcome", "ok|failed|interrupted|background-started?", ""),
                ("duration_ms", "int?", ""),
                ("trailers", "[#Trailer]", ""),
            ],
        ),
    );
    add(
        "LogEntry",
        object(
            "",
            &with(&[&COMMIT, &[("changed", "bool", "Whether it changed any file.")]]),
        ),
    );
    add(
        "Log",
        object(
            "",
            &[
                ("checkpoints", "[#LogEntry]", "Newest first."),
                ("next", "string?", "For `cursor` of the next page; null at the end."),
            ],
        ),
    );
    add(
        "Shown",
        object(
            "",
            &with(&[
                &COMMIT,
                &[
                    ("changes", "[#Change]", "From its first parent."),
                    ("more", "bool", "There are more."),
                ],
            ]),
        ),
    );
    add(
        "FileDiff",
        object(
            "",
            &with(&[
                &CHANGE,
                &[
                    ("added", "int?", "Lines; null where lines were not compared."),
                    ("removed", "int?", ""),
                    (
                        "content",
                        "text|binary|too_large|left_out|not_read",
                        "Why `patch` has no lines, if not `text`.",
                    ),
                    ("patch?", "string", "As git writes it."),
                ],
            ]),
        ),
    );
    add(
        "Diff",
        object(
            "",
            &[
                ("from", "string?", "A commit, or null for nothing."),
                ("to", "string", "A commit, or `live`."),
                ("files", "[#FileDiff]", ""),
                ("more", "bool", "There are more."),
                (
                    "renames_skipped",
                    "bool",
                    "There were too many files to look for renames among all of them.",
                ),
                ("skipped?", "[#Skipped]", "Live files that no checkpoint would have."),
            ],
        ),
    );
    add(
        "TreeEntry",
        object(
            "",
            &with(&[
                &PATH,
                &[
                    ("kind", "file|link|directory|repository", ""),
                    ("mode", "string", "As git writes it."),
                    ("id", "string", ""),
                    ("size", "int?", "Bytes of a file or a link."),
                ],
            ]),
        ),
    );
    add(
        "Tree",
        object(
            "",
            &[
                ("at", "string", "The commit."),
                ("entries", "[#TreeEntry]", "In git's order."),
                ("next", "string?", "For `after` of the next page; null at the end."),
            ],
        ),
    );
    add(
        "Back",
        object(
            "",
            &[
                ("checkpoint", "string", ""),
                ("paths?", "[string]", "Only these; not for an undo."),
                ("dry_run?", "bool", ""),
                ("summary?", "string", ""),
                ("agent?", "string", ""),
                ("session?", "string", ""),
            ],
        ),
    );
    add(
        "Restored",
        object(
            "",
            &with(&[
                &[
                    ("dry_run", "bool", ""),
                    (
                        "commit",
                        "string?",
                        "The new checkpoint; null when nothing had to change.",
                    ),
                    ("saved", "string?", "The checkpoint of what was unsaved before."),
                    ("was_unsaved", "bool", ""),
                ],
                &PLACE,
                &[
                    ("changed", "int", ""),
                    ("changes", "[#Change]", "The first of them."),
                    ("left", "[#Why]", "Files that are not as the new checkpoint has them."),
                    ("skipped", "[#Skipped]", ""),
                ],
            ]),
        ),
    );
    add(
        "Conflicts",
        object("", &[("error", "#ErrorText", ""), ("conflicts", "[#Why]", "")]),
    );
    add(
        "NewBranch",
        object(
            "",
            &[("name", "string", ""), ("checkpoint?", "string", "HEAD without it.")],
        ),
    );
    add(
        "Branch",
        object("", &[("branch", "string", "In full."), ("commit", "string", "")]),
    );
    add(
        "Squash",
        object(
            "",
            &[
                ("branch", "string", "Where the result goes."),
                ("from?", "string", "Behind this one."),
                ("to?", "string", "Up to this one; HEAD without it."),
                ("onto?", "string", ""),
                ("append?", "bool", "Put it on what the branch has."),
                ("message?", "string", ""),
            ],
        ),
    );
    add(
        "Squashed",
        object(
            "",
            &[
                ("commit", "string", ""),
                ("parent", "string?", ""),
                ("branch", "string", ""),
                ("commits", "int", "How many became one."),
            ],
        ),
    );
}
