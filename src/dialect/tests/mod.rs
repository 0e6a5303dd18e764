//! What agents say, and what is made of it.

use super::*;

mod basic;
mod laws;
mod transcripts;

/// An event in a line: what tests compare.
fn brief(event: &Event) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let _ = match event {
        Event::Ready => write!(out, "ready"),
        Event::SessionGone { id, ends } => write!(out, "no session {id}{}", if *ends { ": ends" } else { "" }),
        Event::Unfit { why, text } => write!(out, "unfit for {}: {text}", why.as_str()),
        Event::Changed(change) => write!(out, "changed {} to {}", change.told().0, change.told().1),
        Event::Session { id, model } => write!(out, "session {id}{}", opt(" of ", model.as_deref())),
        Event::TurnStarted { turn, message } => write!(out, "turn {turn}{}", about(message.as_ref())),
        Event::TurnEnded(turn) => write!(
            out,
            "turn {} {}{}{}",
            turn.turn,
            turn.outcome.as_str(),
            about(turn.message.as_ref()),
            opt(": ", turn.text.as_deref())
        ),
        Event::ToolStarted(tool) => write!(
            out,
            "start {} [{}] {}{}{}",
            tool.call,
            tool.tool,
            tool.summary,
            opt(" in ", tool.parent.as_deref()),
            if tool.background { " in background" } else { "" }
        ),
        Event::ToolFinished(tool) => finish(&mut out, tool),
        Event::Settled { calls, barrier } => {
            write!(out, "settled {}{}", calls.join(" "), opt(" waits ", barrier.as_deref()))
        }
        Event::Said {
            text,
            partial,
            thought,
            parent,
        } => write!(
            out,
            "{}{} {text:?}{}",
            if *thought { "thinks" } else { "says" },
            if *partial { " piece" } else { "" },
            opt(" in ", parent.as_deref())
        ),
        Event::Permission(asked) => write!(
            out,
            "may {}{} [{}={}] {}{}: {}",
            asked.request,
            opt(" for ", asked.call.as_deref()),
            asked.tool,
            asked.name,
            asked.summary,
            if asked.remembers { " remembers" } else { "" },
            subject(&asked.subject)
        ),
        Event::PermissionGone { request, why } => write!(out, "no matter {request} ({})", why.as_str()),
        Event::Trouble { text } => write!(out, "trouble {text}"),
        Event::Failed { text } => write!(out, "failed {text}"),
        Event::Log { text } => write!(out, "log {text}"),
    };
    out
}

fn finish(out: &mut String, tool: &ToolFinished) -> std::fmt::Result {
    use std::fmt::Write as _;
    write!(out, "finish {}", tool.call)?;
    for other in &tool.with {
        write!(out, "+{other}")?;
    }
    write!(out, " [{}", tool.tool)?;
    if tool.raw_tool != tool.tool {
        write!(out, "={}", tool.raw_tool)?;
    }
    write!(
        out,
        "{}] {}: {}",
        opt(" of ", tool.server.as_deref()),
        tool.summary,
        tool.outcome.as_str()
    )?;
    if tool.background && tool.outcome != Outcome::BackgroundStarted {
        write!(out, " in background")?;
    }
    if let Some(code) = tool.exit_code {
        write!(out, " exit {code}")?;
    }
    if let Some(duration) = tool.duration {
        write!(out, " {}ms", duration.as_millis())?;
    }
    write!(out, "{}", opt(" in ", tool.parent.as_deref()))?;
    if !tool.concurrent.is_empty() {
        write!(out, " beside {}", tool.concurrent.join(" "))?;
    }
    if !tool.paths.is_empty() {
        write!(out, " paths {}", tool.paths.join(" "))?;
    }
    write!(out, "{}", opt(" waits ", tool.barrier.as_deref()))?;
    match tool.source {
        Source::Stream | Source::Barrier => Ok(()),
        source => write!(out, " by {}", source.as_str()),
    }
}

/// What a turn is about, and how that is known.
fn about(message: Option<&Joined>) -> String {
    message.map_or_else(String::new, |joined| {
        format!(" for {} by {}", joined.id, joined.by.as_str())
    })
}

fn subject(subject: &Subject) -> String {
    match subject {
        Subject::Unknown => "unknown".to_owned(),
        Subject::Commands(lines) => {
            let lines: Vec<_> = lines.iter().map(|one| one.line.as_str()).collect();
            format!("commands {lines:?}")
        }
        Subject::Paths(paths) | Subject::Below(paths) => {
            let paths: Vec<_> = paths.iter().map(|one| one.path.as_str()).collect();
            format!("paths {paths:?}")
        }
        Subject::Text(text) => format!("text {text:?}"),
        Subject::Part(part) => format!("more than {}", self::subject(part)),
    }
}

fn opt(before: &str, text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!("{before}{text}"))
}
