//! What a tool has done, as the hooks of agents tell of it.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::dialect::{Summary, summarise};

/// Says what a tool has done.
pub(super) fn of_tool(name: &str, input: &Value, response: &Value, root: &Path, cwd: &Path) -> Summary {
    summarise(name, input, Some(response), &|path| relative(path, root, cwd))
}

/// The path as the workspace knows it, if it is in it.
fn relative(path: &str, root: &Path, cwd: &Path) -> String {
    let whole = cwd.join(path);
    let mut plain = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    let by_another_way = || {
        let above = plain.parent()?.canonicalize().ok()?;
        Some(above.join(plain.file_name()?))
    };
    match plain.strip_prefix(root) {
        Ok(below) => below.display().to_string(),
        Err(_) => match by_another_way().as_deref().map(|real| real.strip_prefix(root)) {
            Some(Ok(below)) => below.display().to_string(),
            _ => plain.display().to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_told_as_the_workspace_knows_them() {
        let root = Path::new("/ws");
        for (path, text) in [
            ("b.md", "Created sub/b.md"),
            ("../c.md", "Created c.md"),
            ("/ws/./x/../d.md", "Created d.md"),
            ("/elsewhere/x", "Created /elsewhere/x"),
        ] {
            let told = of_tool(
                "Write",
                &json!({ "file_path": path }),
                &json!({"type": "create"}),
                root,
                &root.join("sub"),
            );
            assert_eq!(told.text, text);
        }
    }
}
