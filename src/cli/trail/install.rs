//! Hooks in the settings of agents. A settings file is somebody's: what is in it stays, byte for byte, and nothing is written that was not shown.

use std::{
    env, fmt,
    fs::{self, File},
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json, value::RawValue};

use super::args::{Hooked, Install};

/// Bytes of a settings file.
const MOST: u64 = 4 << 20;

impl Hooked {
    /// As `gitstead hook` calls it.
    fn word(self) -> &'static str {
        match self {
            Hooked::ClaudeCode => "claude-code",
            Hooked::Codex => "codex",
            Hooked::Letta => "letta",
        }
    }

    /// The events that it tells of, each with what says for which tools.
    fn events(self) -> &'static [(&'static str, Option<&'static str>)] {
        match self {
            Hooked::ClaudeCode => &[
                ("PostToolUse", Some("*")),
                ("PostToolUseFailure", Some("*")),
                ("Stop", None),
            ],
            Hooked::Codex => &[("PostToolUse", None), ("Stop", None)],
            // A failure is told of by PostToolUse, too.
            Hooked::Letta => &[("PostToolUse", Some("*")), ("Stop", None)],
        }
    }

    fn settings(self, wanted: &Install) -> anyhow::Result<PathBuf> {
        if let Some(file) = &wanted.settings {
            return Ok(file.clone());
        }
        let (dir, file) = match self {
            Hooked::ClaudeCode => (".claude", "settings.json"),
            Hooked::Codex => (".codex", "hooks.json"),
            Hooked::Letta => (".letta", "settings.json"),
        };
        let own_dir = match self {
            Hooked::ClaudeCode => env::var_os("CLAUDE_CONFIG_DIR"),
            Hooked::Codex => env::var_os("CODEX_HOME"),
            Hooked::Letta => None,
        };
        match (&wanted.project, own_dir.filter(|dir| !dir.is_empty())) {
            _ if !wanted.user => {
                let project = wanted.project.clone().unwrap_or_else(|| PathBuf::from("."));
                Ok(project.join(dir).join(file))
            }
            (_, Some(own)) => Ok(PathBuf::from(own).join(file)),
            _ => {
                let home = env::var_os("HOME").filter(|home| !home.is_empty());
                let home = home.context("HOME is not set: name the file with --settings")?;
                Ok(PathBuf::from(home).join(dir).join(file))
            }
        }
    }
}

pub(super) fn run(wanted: &Install) -> anyhow::Result<()> {
    let whose = wanted.agent;
    let path = whose.settings(wanted)?;
    // A link stays one.
    let path = fs::canonicalize(&path).unwrap_or(path);
    let before = read(&path)?;
    let program = match &wanted.command {
        Some(command) => command.clone(),
        None => program()?,
    };
    let command = format!("{program} hook {}", whose.word());
    let text = before.as_deref().unwrap_or("");
    let after = with_hooks(text, whose, &command).with_context(|| format!("read {}", path.display()))?;
    let mut out = io::stdout().lock();
    let Some(after) = after else {
        writeln!(out, "{} has the hooks already", path.display())?;
        return Ok(());
    };
    writeln!(out, "{} will be:\n\n{after}", path.display())?;
    if !wanted.yes {
        if !io::stdin().is_terminal() {
            bail!("nothing was written: say --yes to write it");
        }
        write!(out, "Write it? [y/N] ")?;
        out.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("nothing was written");
        }
    }
    if read(&path)? != before {
        bail!("{} has changed meanwhile: nothing was written", path.display());
    }
    replace(&path, &after).with_context(|| format!("write {}", path.display()))?;
    writeln!(out, "written")?;
    if whose == Hooked::Codex {
        writeln!(
            out,
            "Codex runs hooks in projects that it trusts, once they were reviewed there."
        )?;
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let doing = || format!("read {}", path.display());
    match fs::metadata(path) {
        Ok(found) if found.len() > MOST => bail!("{} is too large to be settings", path.display()),
        Ok(_) => fs::read_to_string(path).map(Some).with_context(doing),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(doing),
    }
}

/// How a shell calls this program.
fn program() -> anyhow::Result<String> {
    let own = env::current_exe().context("find this program")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|dir| dir.join("gitstead"))
        .find(|there| there.is_file());
    let is_own = |there: PathBuf| fs::canonicalize(there).ok() == fs::canonicalize(&own).ok();
    if found.is_some_and(is_own) {
        return Ok("gitstead".to_owned());
    }
    let own = own
        .to_str()
        .context("the path of this program is no text: say --command")?;
    let is_plain = own
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_'));
    Ok(if is_plain {
        own.to_owned()
    } else {
        format!("'{}'", own.replace('\'', r"'\''"))
    })
}

/// An object's members in their order, each as it was written.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        source.deserialize_map(Reader)
    }
}

/// The settings with our hooks; `None` if they have them.
fn with_hooks(text: &str, whose: Hooked, command: &str) -> anyhow::Result<Option<String>> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let Members(settings) = serde_json::from_str(text).context("it is not the JSON that was expected")?;
    let at = settings.iter().position(|(key, _)| key == "hooks");
    let mut hooks = match at {
        Some(at) => {
            let Members(hooks) =
                serde_json::from_str(settings[at].1.get()).context("its member `hooks` is no object")?;
            hooks
        }
        None => Vec::new(),
    };
    let mut changed = false;
    for (event, matcher) in whose.events() {
        let mut entry = json!({ "hooks": [{ "type": "command", "command": command }] });
        if let Some(matcher) = matcher {
            entry["matcher"] = json!(matcher);
        }
        let entry = pretty(&entry, 3)?;
        let list = match hooks.iter_mut().find(|(key, _)| key == event) {
            Some((_, list)) => list,
            None => {
                hooks.push(((*event).to_owned(), RawValue::from_string("[]".to_owned())?));
                match hooks.last_mut() {
                    Some((_, list)) => list,
                    None => continue,
                }
            }
        };
        let mut entries: Vec<Box<RawValue>> =
            serde_json::from_str(list.get()).with_context(|| format!("its member `hooks.{event}` is no list"))?;
        if entries.iter().any(|entry| is_ours(entry, whose)) {
            continue;
        }
        entries.push(RawValue::from_string(entry)?);
        let items: Vec<String> = entries.iter().map(|entry| format!("      {}", entry.get())).collect();
        *list = RawValue::from_string(format!("[\n{}\n    ]", items.join(",\n")))?;
        changed = true;
    }
    if !changed {
        return Ok(None);
    }
    let member = |(key, value): &(String, Box<RawValue>), indent: &str| {
        format!("{indent}{}: {}", Value::from(key.as_str()), value.get())
    };
    let inner: Vec<String> = hooks.iter().map(|hook| member(hook, "    ")).collect();
    let hooks = RawValue::from_string(format!("{{\n{}\n  }}", inner.join(",\n")))?;
    let mut settings = settings;
    match at {
        Some(at) => settings[at].1 = hooks,
        None => settings.push(("hooks".to_owned(), hooks)),
    }
    let outer: Vec<String> = settings.iter().map(|setting| member(setting, "  ")).collect();
    Ok(Some(format!("{{\n{}\n}}\n", outer.join(",\n"))))
}

/// With every line but the first moved in by so many steps.
fn pretty(value: &Value, steps: usize) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(text.replace('\n', &format!("\n{}", "  ".repeat(steps))))
}

/// Whether an entry calls us for this agent, whatever else it says.
fn is_ours(entry: &RawValue, whose: Hooked) -> bool {
    let entry: Value = serde_json::from_str(entry.get()).unwrap_or_default();
    let call = format!("hook {}", whose.word());
    let commands = entry.get("hooks").and_then(Value::as_array).into_iter().flatten();
    commands
        .filter_map(|hook| hook.get("command")?.as_str())
        .any(|command| command.contains("gitstead") && command.contains(&call))
}

/// All or nothing, with the permissions that it had.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = dir.join(format!(".{name}.gitstead-{}", std::process::id()));
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).open(&beside)?;
        if let Ok(found) = fs::metadata(path) {
            file.set_permissions(found.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_settings_stays_as_it_is() {
        let text = r#"{
  "z": [1,   2],
  "hooks": {
    "Stop": [ { "hooks": [ {"type":"command", "command":"say done"} ] } ],
    "PreToolUse": []
  },
  "a": 1.50
}
"#;
        let after = with_hooks(text, Hooked::ClaudeCode, "gitstead hook claude-code")
            .expect("it is JSON")
            .expect("it has none of ours");
        insta::assert_snapshot!(after, @r#"
        {
          "z": [1,   2],
          "hooks": {
            "Stop": [
              { "hooks": [ {"type":"command", "command":"say done"} ] },
              {
                "hooks": [
                  {
                    "command": "gitstead hook claude-code",
                    "type": "command"
                  }
                ]
              }
            ],
            "PreToolUse": [],
            "PostToolUse": [
              {
                "hooks": [
                  {
                    "command": "gitstead hook claude-code",
                    "type": "command"
                  }
                ],
                "matcher": "*"
              }
            ],
            "PostToolUseFailure": [
              {
                "hooks": [
                  {
                    "command": "gitstead hook claude-code",
                    "type": "command"
                  }
                ],
                "matcher": "*"
              }
            ]
          },
          "a": 1.50
        }
        "#);
        let again = with_hooks(&after, Hooked::ClaudeCode, "/elsewhere/gitstead hook claude-code");
        assert_eq!(again.expect("it is JSON"), None);
    }

    #[test]
    fn settings_that_are_not_understood_are_left_alone() {
        for text in [
            "[]",
            "{",
            "// a comment\n{}",
            r#"{"hooks": []}"#,
            r#"{"hooks": {"Stop": {}}}"#,
            "7",
        ] {
            assert!(
                with_hooks(text, Hooked::Codex, "gitstead hook codex").is_err(),
                "{text}"
            );
        }
        for text in ["", " \n", "{}", r#"{"hooks": {"Stop": [7, null, {"hooks": 3}]}}"#] {
            let after = with_hooks(text, Hooked::Letta, "gitstead hook letta").expect("it is JSON");
            let after = after.expect("it has none of ours");
            assert!(serde_json::from_str::<Value>(&after).is_ok(), "{after}");
        }
    }
}
