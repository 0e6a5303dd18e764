use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::args::Maintain;
use crate::{
    base::RepoName,
    depot::Depot,
    repo::{
        CompactOptions, CompactPhase, CompactProgress, CompactSkip, Expiry, ExpirySkip, MaintainOutcome, Occasion,
        Repository, parse_age,
    },
    server::Config,
};

/// Between two lines of progress.
const PACE: Duration = Duration::from_millis(200);

pub(super) fn run(config: &Config, command: &Maintain) -> anyhow::Result<()> {
    if !config.repos.is_dir() {
        anyhow::bail!("there is no directory {}", config.repos.display());
    }
    let depot = Depot::new(&config.repos, config.depot_options_for_operator())?;
    let mut options = CompactOptions::default();
    (options.all, options.search_again) = (command.full, command.full);
    options.expiry = match command.expire.as_deref() {
        None => Expiry::Configured,
        Some(said) => match parse_age(said) {
            Some(Some(age)) => Expiry::After(age),
            Some(None) => Expiry::Never,
            None => anyhow::bail!("'{said}' is no age: it is said as '2 weeks', 'now' or 'never'"),
        },
    };
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
    if auto && !repo.wants_maintenance()? {
        return super::print(&format!("{}: nothing to do\n", name.canonical()));
    }
    let occasion = if auto { Occasion::Written } else { Occasion::Asked };
    let mut progress = Progress::new(name);
    let outcome = repo.maintain(options, occasion, &AtomicBool::new(false), &mut |now| {
        progress.show(now)
    });
    progress.clear();
    super::print(&format!("{}: {}\n", name.canonical(), said(&outcome?)))
}

fn said(outcome: &MaintainOutcome) -> String {
    let MaintainOutcome {
        compaction,
        files,
        graph,
        ..
    } = outcome;
    match compaction.skipped {
        Some(CompactSkip::Compaction) => return "somebody else is at it".to_owned(),
        Some(CompactSkip::GitGc) => return "git gc is at it".to_owned(),
        Some(CompactSkip::PreciousObjects) => {
            return "its objects are precious (extensions.preciousObjects)".to_owned();
        }
        None => {}
    }
    let mut parts = Vec::new();
    if compaction.pack.is_some() {
        parts.push(format!(
            "{}, {} of them deltas, in a pack of {}; {} and {} deleted, {}",
            count(compaction.objects.into(), "object"),
            compaction.deltas,
            count(compaction.bytes, "byte"),
            count(compaction.packs_deleted as u64, "pack"),
            count(compaction.loose_deleted as u64, "loose object"),
            count(compaction.bytes_deleted, "byte"),
        ));
    }
    if compaction.expired > 0 {
        parts.push(format!("{} dropped", count(compaction.expired.into(), "object")));
    }
    if compaction.aside > 0 {
        parts.push(format!(
            "{} that nothing refers to set aside in a pack of {}",
            count(compaction.aside.into(), "object"),
            count(compaction.aside_bytes, "byte"),
        ));
    }
    if let Some(why) = compaction.postponed {
        parts.push(match why {
            ExpirySkip::Incomplete(id) => format!("nothing dropped, because {id} is needed and is missing or damaged"),
            ExpirySkip::BrokenRef => {
                "nothing dropped, because a ref is broken or names one that is not there".to_owned()
            }
            ExpirySkip::Partial => "nothing dropped, because it is a partial clone".to_owned(),
            ExpirySkip::Busy => "nothing dropped, because it was in use all the time".to_owned(),
            ExpirySkip::Wanted => "nothing dropped, because something old was used meanwhile".to_owned(),
        });
    }
    if compaction.damaged > 0 {
        parts.push(format!(
            "{} damaged packs and objects left as they are",
            compaction.damaged
        ));
    }
    if files.packs > 0 {
        parts.push(format!("an index of {}", count(files.packs as u64, "pack")));
    }
    if files.bitmaps > 0 {
        parts.push(format!("bitmaps of {}", count(files.bitmaps as u64, "commit")));
    }
    if let Some(id) = graph.hole {
        parts.push(format!(
            "no graph and no bitmaps, because commit {id} is missing or damaged"
        ));
    }
    if graph.commits > 0 {
        parts.push(format!("a graph of {}", count(graph.commits as u64, "commit")));
    }
    if outcome.refs > 0 {
        parts.push(format!("{} packed", count(outcome.refs as u64, "ref")));
    }
    if outcome.leftovers > 0 {
        parts.push(format!("{} deleted", count(outcome.leftovers as u64, "leftover")));
    }
    match parts.is_empty() {
        true => "nothing to do".to_owned(),
        false => parts.join("; "),
    }
}

/// So many of them.
fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
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
            CompactPhase::Reaching => "following refs",
            CompactPhase::Counting => "counting",
            CompactPhase::Naming => "finding names",
            CompactPhase::Comparing => "comparing",
            CompactPhase::Writing => "writing",
            CompactPhase::CommitGraph => "walking over history",
            CompactPhase::Refs => "packing refs",
            CompactPhase::Bitmaps => "finding what commits reach",
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
