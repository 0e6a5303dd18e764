use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::AtomicBool,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;

use super::args::Maintain;
use crate::{
    base::RepoName,
    depot::Depot,
    repo::{CompactOptions, CompactOutcome, CompactPhase, CompactProgress, CompactSkip, Repository, sweep_stale},
    server::Config,
};

/// Quarantines of others are left for so long: a push of theirs may still need them.
const FOREIGN_QUARANTINE: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two lines of progress.
const PACE: Duration = Duration::from_millis(200);

pub(super) fn run(config: &Config, command: &Maintain) -> anyhow::Result<()> {
    if !config.repos.is_dir() {
        anyhow::bail!("there is no directory {}", config.repos.display());
    }
    let depot = Depot::new(&config.repos, config.depot_options_for_operator())?;
    let mut options = CompactOptions::default();
    (options.all, options.search_again) = (command.full, command.full);
    if let Some(name) = &command.name {
        let name = RepoName::parse(name).with_context(|| format!("'{name}' is not a repository name"))?;
        return one(&depot, &name, &options, command.auto);
    }
    let listing = depot.list()?;
    if listing.truncated {
        tracing::warn!("there are more repositories than one listing may look at");
    }
    let mut failed = 0;
    for listed in &listing.repositories {
        if let Err(error) = one(&depot, &listed.name, &options, command.auto) {
            if error
                .chain()
                .any(|cause| cause.is::<io::Error>() && is_broken_pipe(cause))
            {
                return Err(error);
            }
            let _ = writeln!(io::stderr(), "error: {}: {error:#}", listed.name.canonical());
            failed += 1;
        }
    }
    match failed {
        0 => Ok(()),
        1 => anyhow::bail!("one repository could not be maintained"),
        n => anyhow::bail!("{n} repositories could not be maintained"),
    }
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    let io = cause.downcast_ref::<io::Error>();
    io.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn one(depot: &Depot, name: &RepoName, options: &CompactOptions, auto: bool) -> anyhow::Result<()> {
    let repo: &Repository = &*depot.open(name)?;
    sweep_stale(repo, FOREIGN_QUARANTINE, SystemTime::now())?;
    if auto && !repo.wants_compaction()? {
        return super::print(&format!("{}: nothing to do\n", name.canonical()));
    }
    let mut progress = Progress::new(name);
    let outcome = repo.compact(options, &AtomicBool::new(false), &mut |now| progress.show(now));
    if repo.wants_commit_graph(&repo.odb()?)? {
        repo.write_commit_graph(true, options.threads, &AtomicBool::new(false), &mut |now| {
            progress.show(now)
        })?;
    }
    progress.clear();
    super::print(&format!("{}: {}\n", name.canonical(), said(&outcome?)))
}

fn said(outcome: &CompactOutcome) -> String {
    let mut text = match (outcome.skipped, &outcome.pack) {
        (Some(CompactSkip::Compaction), _) => return "somebody else is at it".to_owned(),
        (Some(CompactSkip::GitGc), _) => return "git gc is at it".to_owned(),
        (Some(CompactSkip::PreciousObjects), _) => {
            return "its objects are precious (extensions.preciousObjects)".to_owned();
        }
        (None, None) => "nothing to do".to_owned(),
        (None, Some(_)) => format!(
            "{} objects, {} of them deltas, in a pack of {} bytes; {} packs and {} loose objects deleted, {} bytes",
            outcome.objects,
            outcome.deltas,
            outcome.bytes,
            outcome.packs_deleted,
            outcome.loose_deleted,
            outcome.bytes_deleted,
        ),
    };
    if outcome.damaged > 0 {
        text.push_str(&format!(
            "; {} damaged packs and objects left as they are",
            outcome.damaged
        ));
    }
    text
}

/// One line on standard error that is written over and over, if somebody looks.
struct Progress {
    name: String,
    shown: Option<(CompactPhase, Instant)>,
    is_watched: bool,
}

impl Progress {
    fn new(name: &RepoName) -> Self {
        Progress {
            name: name.canonical().to_string(),
            shown: None,
            is_watched: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, now: CompactProgress) {
        if !self.is_watched {
            return;
        }
        let time = Instant::now();
        if let Some((phase, then)) = self.shown
            && phase == now.phase
            && time.duration_since(then) < PACE
        {
            return;
        }
        self.shown = Some((now.phase, time));
        let doing = match now.phase {
            CompactPhase::Counting => "counting",
            CompactPhase::Naming => "finding names",
            CompactPhase::Comparing => "comparing",
            CompactPhase::Writing => "writing",
            CompactPhase::CommitGraph => "walking over history",
            CompactPhase::ChangedPaths => "looking what commits changed",
        };
        let CompactProgress { done, total, .. } = now;
        let of = if total > 0 {
            format!(" of {total}")
        } else {
            String::new()
        };
        let _ = write!(io::stderr(), "\r\x1b[K{}: {doing} {done}{of}", self.name);
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
