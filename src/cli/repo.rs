use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{
    args::{ObjectFormat, RepoCommand},
    client::{Client, harmless},
};
use crate::{
    base::RepoName,
    depot::{CreateOptions, Depot, DepotError, Details},
    server::{Config, noted_server},
    web::RepositoryInfo,
};

pub(super) fn run(config: &Config, command: RepoCommand, json: bool) -> anyhow::Result<()> {
    match command {
        RepoCommand::Create {
            name,
            object_format,
            default_branch,
            description,
        } => {
            let name = parse(&name)?;
            let mut options = config.create_options();
            match object_format {
                None => {}
                Some(ObjectFormat::Sha1) => options.object_format = gix::hash::Kind::Sha1,
                Some(ObjectFormat::Sha256) => options.object_format = gix::hash::Kind::Sha256,
            }
            if let Some(branch) = default_branch {
                options.default_branch = branch;
            }
            options.description = description;
            create(config, &name, &options, json)
        }
        RepoCommand::List => list(config, json),
        RepoCommand::Show { name } => {
            let name = parse(&name)?;
            show(existing(config, &name)?.details(&name)?, json)
        }
        RepoCommand::Delete { name } => {
            let name = parse(&name)?;
            nobody_works_there(config, &name, None)?;
            existing(config, &name)?.delete(&name)?;
            done(json, json!({ "deleted": name.canonical() }), || {
                format!("deleted {}", name.canonical())
            })
        }
        RepoCommand::Rename { name, new } => {
            let (name, new) = (parse(&name)?, parse(&new)?);
            nobody_works_there(config, &name, None)?;
            let depot = existing(config, &name)?;
            depot.rename(&name, &new)?;
            if json {
                return show(depot.details(&new)?, true);
            }
            super::print(&format!("renamed {} to {}\n", name.canonical(), new.canonical()))
        }
        RepoCommand::SetHead { name, branch } => {
            let name = parse(&name)?;
            let depot = existing(config, &name)?;
            depot.set_head(&name, &branch)?;
            show(depot.details(&name)?, json)
        }
    }
}

pub(super) fn parse(text: &str) -> anyhow::Result<RepoName> {
    RepoName::parse(text).with_context(|| format!("'{text}' is not a repository name"))
}

/// Refuses to take the files from under an agent of the server that runs on this data directory, if one does and tells.
pub(super) fn nobody_works_there(config: &Config, name: &RepoName, workspace: Option<&str>) -> anyhow::Result<()> {
    let Some(url) = noted_server(&config.data) else {
        return Ok(());
    };
    let query = format!("/api/v1/agents?repository={}", name.canonical().replace('/', "%2F"));
    let token = std::env::var("GITSTEAD_TOKEN").ok();
    let Ok(known) = Client::new(&url, token).and_then(|client| client.ask("GET", &query, None)) else {
        return Ok(());
    };
    let agents = known["agents"].as_array().into_iter().flatten();
    let works_there = |agent: &&serde_json::Value| {
        let is_meant = workspace.is_none_or(|name| agent["workspace"] == name);
        is_meant && agent["ended"] == false && agent["state"] != "created"
    };
    if let Some(agent) = agents.into_iter().find(works_there) {
        let text = |key: &str| harmless(agent[key].as_str().unwrap_or_default());
        bail!("agent '{}' is {}: stop it first", text("name"), text("state"));
    }
    Ok(())
}

/// The depot, when it is there already: a mistyped directory is not made by looking into it.
pub(super) fn existing(config: &Config, name: &RepoName) -> anyhow::Result<Depot> {
    if config.repos.is_dir() {
        return Ok(Depot::new(&config.repos, config.depot_options_for_operator())?);
    }
    let missing = DepotError::NotFound { name: name.clone() };
    Err(anyhow::Error::new(missing).context(format!("there is no directory {}", config.repos.display())))
}

fn create(config: &Config, name: &RepoName, options: &CreateOptions, json: bool) -> anyhow::Result<()> {
    let depot = Depot::new(&config.repos, config.depot_options_for_operator())?;
    depot.create(name, options)?;
    let details = depot.details(name)?;
    if json {
        return show(details, true);
    }
    super::print(&format!(
        "created {} in {}\n",
        name.canonical(),
        details.git_dir.display()
    ))
}

fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let listing = if config.repos.is_dir() {
        Depot::new(&config.repos, config.depot_options_for_operator())?.list()?
    } else {
        tracing::warn!(directory = %config.repos.display(), "there is no such directory yet");
        crate::depot::Listing::default()
    };
    if listing.truncated {
        tracing::warn!("there are more repositories than one listing may look at");
    }
    let names = listing.repositories.iter().map(|listed| listed.name.as_str());
    if json {
        let names: Vec<_> = names.map(|name| json!({ "name": name })).collect();
        return super::print_json(&json!({ "repositories": names }));
    }
    let mut text = String::new();
    for name in names {
        text.push_str(name);
        text.push('\n');
    }
    super::print(&text)
}

fn show(details: Details, json: bool) -> anyhow::Result<()> {
    let path = details.git_dir.display().to_string();
    let info = RepositoryInfo::from(details);
    if json {
        return super::print_json(&info);
    }
    let mut text = String::new();
    let none = || "none".to_owned();
    for (label, value) in [
        ("name", info.name),
        ("path", path),
        ("object format", info.object_format),
        ("head", info.head.unwrap_or_else(none)),
        ("commit", info.head_id.unwrap_or_else(none)),
        ("bare", if info.bare { "yes" } else { "no" }.to_owned()),
        ("description", info.description.unwrap_or_else(none)),
    ] {
        writeln!(text, "{:<15}{value}", format!("{label}:"))?;
    }
    super::print(&text)
}

fn done(json: bool, value: serde_json::Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    if json {
        super::print_json(&value)
    } else {
        super::print(&format!("{}\n", text()))
    }
}
