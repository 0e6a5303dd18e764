//! The shapes of what is sent and answered, by name.

mod agents;
mod sessions;
mod workspaces;

use serde_json::{Map, Value};

use super::words::{Field, object, schema};

fn repositories(add: &mut impl FnMut(&str, Value)) {
    add(
        "Repository",
        object(
            "",
            &[
                ("name", "string", "As in URLs."),
                ("object_format", "sha1|sha256", ""),
                ("head", "string?", "The ref that HEAD names."),
                (
                    "head_id",
                    "string?",
                    "The commit that HEAD comes to; null while there is none.",
                ),
                ("bare", "bool", ""),
                ("description", "string?", ""),
            ],
        ),
    );
    add("RepositoryName", object("", &[("name", "string", "")]));
    add(
        "Repositories",
        object(
            "",
            &[
                ("repositories", "[#RepositoryName]", "In the order of their names."),
                ("next", "string?", "For `after` of the next page; null at the end."),
            ],
        ),
    );
    add(
        "NewRepository",
        object(
            "",
            &[
                ("name", "string", ""),
                ("object_format?", "sha1|sha256", ""),
                ("default_branch?", "string", ""),
                ("description?", "string", ""),
            ],
        ),
    );
    add(
        "RepositoryChange",
        object(
            "One of them at least.",
            &[
                ("name?", "string", "What it is called from now on."),
                ("head?", "string", "The branch that HEAD names from now on."),
            ],
        ),
    );
}

/// All of them.
pub(super) fn all() -> Map<String, Value> {
    let mut all = Map::new();
    let mut add = |name: &str, schema: Value| {
        let before = all.insert(name.to_owned(), schema);
        debug_assert!(before.is_none(), "{name} is described once");
    };
    add(
        "ErrorText",
        object(
            "",
            &[
                ("code", "string", "For programs."),
                ("message", "string", "For people."),
            ],
        ),
    );
    add("Error", object("", &[("error", "#ErrorText", "")]));
    repositories(&mut add);
    workspaces::workspaces(&mut add);
    agents::agents(&mut add);
    sessions::sessions(&mut add);
    all
}
