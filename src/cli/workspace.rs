use std::{
    error::Error,
    fmt::Write as _,
    io::{self, Write as _},
};

use anyhow::bail;
use serde_json::{Value, json};

use super::{
    args::{ObjectFormat, UnsavedWork, WorkspaceCommand},
    repo::{existing, nobody_works_there, parse},
};
use crate::{
    base::{Fault, RepoName, WorkspaceName},
    checkpoint::{Checkpoint, resolve},
    depot::Depot,
    server::Config,
    workspace::{CreateWorkspace, Held, Start, Unsaved, WorkspaceEntry},
};

pub(super) fn run(config: &Config, command: WorkspaceCommand, json: bool) -> anyhow::Result<()> {
    match command {
        WorkspaceCommand::Create {
            repository,
            name,
            task,
            from,
            at,
            fork,
            branch,
            object_format,
        } => {
            let (repository, name) = (parse(&repository)?, WorkspaceName::parse(&name)?);
            let depot = Depot::new(&config.repos, config.depot_options_for_operator())?;
            let plain = task.is_none() && from.is_none() && fork.is_none() && at.is_none();
            let start = match (task, from, fork) {
                (Some(task), ..) => Start::Empty { task },
                (_, Some(branch), _) => Start::Branch(branch),
                (_, _, Some(source)) => {
                    let source = parse(&source)?;
                    let at = at
                        .map(|at| anyhow::Ok(resolve(&*depot.open(&source)?, &at)?))
                        .transpose()?;
                    Start::Fork { source, at }
                }
                _ => match at {
                    Some(at) => Start::Commit(resolve(&*depot.open(&repository)?, &at)?),
                    None => Start::Default,
                },
            };
            let mut create = CreateWorkspace::new(start);
            create.branch = branch;
            create.repository = config.create_options();
            match object_format {
                None => {}
                Some(ObjectFormat::Sha1) => create.repository.object_format = gix::hash::Kind::Sha1,
                Some(ObjectFormat::Sha256) => create.repository.object_format = gix::hash::Kind::Sha256,
            }
            create.options.open = depot.open_options().clone();
            let workspace = match depot.create_workspace(&repository, &name, &create) {
                Err(error) if plain && error.fault() == Fault::NotFound => {
                    let hint = "--task TEXT makes the repository and begins with nothing but the task";
                    return Err(anyhow::Error::new(error).context(hint));
                }
                other => other?,
            };
            if json {
                return show(&depot, &repository, &name, true);
            }
            super::print(&format!("created {}\n", workspace.root().display()))
        }
        WorkspaceCommand::List { repository } => list(config, repository.as_deref(), json),
        WorkspaceCommand::Show { repository, name } => {
            let (repository, name) = (parse(&repository)?, WorkspaceName::parse(&name)?);
            show(&existing(config, &repository)?, &repository, &name, json)
        }
        WorkspaceCommand::Remove {
            repository,
            name,
            unsaved,
        } => {
            let (repository, name) = (parse(&repository)?, WorkspaceName::parse(&name)?);
            nobody_works_there(config, &repository, Some(name.as_str()))?;
            let depot = existing(config, &repository)?;
            let mut save = save;
            let choice = match unsaved {
                UnsavedWork::Refuse => Unsaved::Refuse,
                UnsavedWork::Checkpoint => Unsaved::Save(&mut save),
                UnsavedWork::Discard => Unsaved::Discard,
            };
            depot.remove_workspace_with(&repository, &name, choice, &config.workspace_options())?;
            if json {
                let name = name.as_str();
                return super::print_json(&json!({ "repository": repository.canonical(), "removed": name }));
            }
            super::print(&format!("removed {name} of {}\n", repository.canonical()))
        }
    }
}

/// Says something beside the answer.
fn warn(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The workspaces of one repository, or of all.
fn list(config: &Config, repository: Option<&str>, json: bool) -> anyhow::Result<()> {
    let mut found = Vec::new();
    if let Some(repository) = repository {
        let repository = parse(repository)?;
        let entries = existing(config, &repository)?.workspaces(&repository)?;
        found.extend(entries.into_iter().map(|entry| (repository.clone(), entry)));
    } else if config.repos.is_dir() {
        let depot = Depot::new(&config.repos, config.depot_options_for_operator())?;
        let listing = depot.list()?;
        if listing.truncated {
            warn("there are more repositories than one listing may look at");
        }
        for listed in listing.repositories {
            match depot.workspaces(&listed.name) {
                Ok(entries) => found.extend(entries.into_iter().map(|entry| (listed.name.clone(), entry))),
                // One that is broken keeps nobody from seeing the others.
                Err(error) => warn(&format!("{}: {error}", listed.name)),
            }
        }
    }
    if json {
        let entries: Vec<_> = found
            .iter()
            .map(|(repository, entry)| value(repository, entry))
            .collect();
        return super::print_json(&json!({ "workspaces": entries }));
    }
    let mut text = String::new();
    for (of, entry) in found {
        if repository.is_none() {
            write!(text, "{}/", of.canonical())?;
        }
        let branch = entry.branch.as_ref().map_or("(no branch)".to_owned(), short);
        writeln!(
            text,
            "{}\t{branch}\t{}\t{}",
            entry.name,
            entry.state.as_str(),
            entry.root.display()
        )?;
    }
    super::print(&text)
}

/// A last checkpoint. What it has to leave out would be lost after all.
fn save(held: &mut Held<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let outcome = held.checkpoint(Checkpoint::message("Last state before the workspace was removed"))?;
    match outcome.skipped.first() {
        Some((path, why)) => Err(format!("'{path}' cannot be saved: {}", why.text()).into()),
        None => Ok(()),
    }
}

fn show(depot: &Depot, repository: &RepoName, name: &WorkspaceName, json: bool) -> anyhow::Result<()> {
    let entries = depot.workspaces(repository)?;
    let Some(entry) = entries.into_iter().find(|entry| entry.name == *name) else {
        bail!("repository '{repository}' has no workspace '{name}'");
    };
    if json {
        return super::print_json(&value(repository, &entry));
    }
    let none = || "none".to_owned();
    let mut text = String::new();
    for (label, value) in [
        ("name", entry.name.to_string()),
        ("repository", repository.canonical().to_owned()),
        ("path", entry.root.display().to_string()),
        ("branch", entry.branch.as_ref().map_or_else(none, short)),
        ("commit", entry.commit.map_or_else(none, |id| id.to_string())),
        ("made by", if entry.managed { "gitstead" } else { "git" }.to_owned()),
        ("state", entry.state.as_str().to_owned()),
    ] {
        writeln!(text, "{:<12}{value}", format!("{label}:"))?;
    }
    super::print(&text)
}

fn value(repository: &RepoName, entry: &WorkspaceEntry) -> Value {
    json!({
        "repository": repository.canonical(),
        "name": entry.name.as_str(),
        "path": entry.root.display().to_string(),
        "branch": entry.branch.as_ref().map(short),
        "commit": entry.commit.map(|id| id.to_string()),
        "managed": entry.managed,
        "state": entry.state.as_str(),
    })
}

fn short(branch: &bstr::BString) -> String {
    let text = branch.to_string();
    text.strip_prefix("refs/heads/").map(str::to_owned).unwrap_or(text)
}
