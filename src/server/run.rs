use std::{
    io::{self, Write as _},
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{Config, ConfigError, note::Note, notify::Supervisor};
use crate::{
    base::SystemClock,
    depot::{Depot, DepotError, Layout, Upkeep},
    ledger::{Ledger, LedgerError},
    session::{Agents, AskDesk, Audit, CgroupChoice, Cgroups, Closed, Context, Fences},
    web::{
        self, AgentDoors, Api, Check, DepotHands, HookDoor, House, OnPushApplied, Options, ResidentWorkspaces,
        Residents,
    },
    worker::{Lane, Workers},
};

/// How long a server that is ending may still have the data directory.
const OVERLAP: Duration = Duration::from_secs(5);
/// A compaction looks at its stop flag often; a flush to a slow disk may take longer, and may be cut off.
const UPKEEP_ENDS: Duration = Duration::from_secs(5);

/// Why the server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It was told something it cannot do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The repositories cannot be got at.
    #[error("open the directory of repositories")]
    Depot(#[from] DepotError),
    /// The address cannot be had.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It has ended when it was told to, and not everything was done by then.
    #[error(
        "not everything had ended in time: {cut} connections were cut, {killed} agents were killed, {left} of them are not known to have ended"
    )]
    Unfinished {
        /// Connections with a request that was under way.
        cut: usize,
        /// Agents that were killed because their time was over.
        killed: usize,
        /// Those of them that had not ended even then.
        left: usize,
    },
    /// Another server runs on the same data directory.
    #[error("another gitstead serves from {data}", data = data.display())]
    InUse {
        /// The directory.
        data: std::path::PathBuf,
    },
    /// The system refused something else.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it could not.
        source: io::Error,
    },
}

fn io_error(doing: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Io { doing, source }
}

/// Serves until SIGTERM or SIGINT, then lets running requests finish within `limits.drain`; a second signal ends it at once.
///
/// The first line on standard output is the URL it can be reached under, port included; everything else is said on standard error.
///
/// # Errors
/// When it cannot start. Once it serves, nothing but a signal ends it; then it is [`RunError::Unfinished`] when it could not end as it should.
pub fn run(config: Config) -> Result<(), RunError> {
    let address = config.address()?;
    raise_open_files();
    // Whatever we were started with is nothing for agents and their parent processes.
    close_fds::set_fds_cloexec(3, &[]);
    let depot = Arc::new(Depot::new(&config.repos, config.depot_options())?);
    let workers = Workers::start(&config.limits).map_err(io_error("start worker threads"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("async")
        .build()
        .map_err(io_error("start the runtime"))?;
    let upkeep = config.maintenance.then(Upkeep::of_process).flatten();
    let result = runtime.block_on(serve(&config, address, depot, workers, upkeep.clone()));
    if let Some(upkeep) = upkeep {
        upkeep.close(UPKEEP_ENDS);
    }
    // Jobs of clients that were cut off have been told to stop; nothing of ours waits on the runtime any more.
    runtime.shutdown_background();
    result
}

async fn serve(
    config: &Config,
    address: std::net::SocketAddr,
    depot: Arc<Depot>,
    workers: Workers,
    upkeep: Option<Arc<Upkeep>>,
) -> Result<(), RunError> {
    // Before the first line is printed: whoever reads it may send signals.
    let mut terminate = signal(SignalKind::terminate()).map_err(io_error("listen for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io_error("listen for signals"))?;
    let listen_error = |source| RunError::Listen {
        address: config.listen.clone(),
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(listen_error)?;
    let local = listener.local_addr().map_err(listen_error)?;

    let header = config.trusted_user_header.as_deref().map(|name| {
        name.parse()
            .expect("the configuration has checked that it is the name of a header")
    });
    let mut hands =
        DepotHands::new(Arc::clone(&depot), config.create_options()).with_workspaces(config.workspace_options());
    if let Some(upkeep) = upkeep {
        hands = hands.with_upkeep(upkeep);
    }
    // They are opened with the house, which is made of the hands.
    let told: Arc<OnceLock<Agents>> = Arc::default();
    hands = hands.with_push_applied(tell_agents(Arc::clone(&told)));
    let options = Options {
        url_prefix: config.url_prefix.clone(),
        namespace: config.namespace.clone(),
        create_on_push: config.create_on_push,
        create_on_fetch: config.create_on_fetch,
        letta_memfs: config.layout != Layout::Names,
        trusted_user_header: header,
        token_cookie: config.token_cookie.clone(),
        hosts: config.hosts.clone(),
    };
    let house = House::new(
        Arc::new(hands),
        config.rules.clone(),
        config.limits.clone(),
        options,
        workers,
        Arc::new(SystemClock),
    );
    let house = Arc::new(house.map_err(|error| RunError::Io {
        doing: "get random bytes from the system",
        source: io::Error::other(error),
    })?);
    let workspaces = Arc::new(Residents::new(
        Arc::clone(&depot),
        config.workspace_options(),
        &config.limits,
    ));
    let audit = open_audit(config, &house);
    let agents = open_agents(config, &house, &depot, &workspaces, &audit).await?;
    let has_agents = agents.is_some();
    if let Some(agents) = &agents {
        let _ = told.set(agents.clone());
    }
    let closed = CancellationToken::new();
    let api = Api {
        house: Arc::clone(&house),
        depot: Arc::clone(&depot),
        create: config.create_options(),
        workspaces: Arc::clone(&workspaces),
        agents: agents.clone().map(|agents| AgentDoors {
            agents,
            address: local,
            closed: closed.clone(),
        }),
        ask: agents.as_ref().and_then(|agents| open_desk(config, agents)),
    };
    if let Some(doors) = &api.agents {
        house.set_guard(Arc::new(doors.clone()));
    }
    let kept = agents.clone();
    house.set_checks(vec![Check {
        name: "agents",
        trouble: Box::new(move || match &kept {
            None => Some("they are not run; the log says why"),
            Some(agents) if agents.are_kept() => None,
            Some(_) => Some("what becomes of them cannot be written down; the log says why"),
        }),
    }]);
    let api = Arc::new(api);
    let router = web::router(Arc::clone(&house)).merge(web::api_routes(Arc::clone(&api)));

    if config.create_on_push {
        // Now, while nobody holds the right to change names for long: strangers are shown it too. A directory that cannot be written to is no reason not to serve.
        if let Err(error) = depot.blank(&config.create_options()) {
            tracing::warn!(%error, "a push cannot make a repository");
        }
    }
    sweep_beside(depot)?;
    // Without the ledger there is another server on this data directory, which commands shall still find.
    let note = has_agents.then(|| Note::write(&config.data, local)).flatten();
    let hooks = has_agents.then(|| hear_hooks(config, api)).flatten();
    announce(config, local);
    let supervisor = Supervisor::from_env().map(Arc::new);
    let alive = supervisor.clone().and_then(feed_watchdog);
    if let Some(supervisor) = &supervisor {
        supervisor.tell("READY=1");
    }
    let closing = Arc::clone(&house);
    let (begin, began) = tokio::sync::oneshot::channel::<()>();
    let patience = config.limits.agent_drain;
    let ending = tokio::spawn(async move {
        // Beside the requests that may finish: both have their own time.
        let mut ends = Closed::default();
        if began.await.is_ok()
            && let Some(agents) = agents
        {
            ends = agents.close(patience).await;
        }
        closed.cancel();
        ends
    });
    let shutdown = async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "closing; running requests may finish");
        if let Some(supervisor) = supervisor {
            supervisor.tell("STOPPING=1");
        }
        closing.close();
        let _ = begin.send(());
        // Whoever asks twice is in a hurry.
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("second signal: ending at once");
            std::process::exit(130);
        });
    };
    let tired = tokio::spawn(let_go_of_idle(Arc::clone(&house), Arc::clone(&workspaces)));
    let drain = web::serve(listener, router, &config.limits, shutdown).await;
    tired.abort();
    if let Some(hooks) = hooks {
        hooks.abort();
        let _ = hooks.await;
    }
    if let Some(alive) = alive {
        alive.abort();
    }
    let ends = ending.await.unwrap_or_default();
    drop(note);
    audit.close().await;
    // What is acknowledged is on the disk before we end.
    let _ = house.workers.call(Lane::Short, None, move || workspaces.clear()).await;
    let (cut, Closed { stopped, killed, left }) = (drain.cut, ends);
    tracing::info!(finished = drain.finished, cut, stopped, killed, left, "closed");
    match cut + killed + left {
        0 => Ok(()),
        _ => Err(RunError::Unfinished { cut, killed, left }),
    }
}

/// Tells agents of pushes into the workspaces where they work.
fn tell_agents(told: Arc<OnceLock<Agents>>) -> OnPushApplied {
    OnPushApplied(Arc::new(move |push| {
        let Some(agents) = told.get() else { return };
        let left: Vec<_> = push
            .left
            .iter()
            .take(20)
            .map(|(path, why)| json!({ "path": path.to_string(), "why": why }))
            .collect();
        let data = json!({
            "branch": push.branch.to_string(),
            "old": push.old.map(|id| id.to_string()),
            "new": push.new.to_string(),
            "updated": push.updated,
            "left": left,
        });
        agents.push_applied(&push.repository, &push.workspace, &data);
    }))
}

/// The agents of this data directory. Without them everything else is served.
async fn open_agents(
    config: &Config,
    house: &Arc<House>,
    depot: &Arc<Depot>,
    workspaces: &Arc<Residents>,
    audit: &Audit,
) -> Result<Option<Agents>, RunError> {
    let cgroups = match Cgroups::open(&config.cgroups) {
        Ok(cgroups) => cgroups,
        Err(why) if config.cgroups == CgroupChoice::Auto => {
            tracing::info!(%why, "agents have no cgroups");
            None
        }
        Err(why) => {
            tracing::error!(%why, "agents have no cgroups");
            None
        }
    };
    let context = |ledger| Context {
        ledger,
        workers: house.workers.clone(),
        limits: config.limits.clone(),
        clock: Arc::clone(&house.clock),
        workspaces: Arc::new(ResidentWorkspaces {
            residents: Arc::clone(workspaces),
            depot: Arc::clone(depot),
            create: config.create_options(),
            patience: config.limits.queue_wait,
        }),
        logs: config.data.join("logs"),
        runs: config.data.join("run"),
        fences: Fences {
            cgroups: cgroups.clone(),
            sandbox: config.sandbox.clone(),
            container_program: config.container_program.clone(),
            letta_cli: config.letta_cli.clone(),
            ..Fences::default()
        },
        answer_within: config.answer_within,
        permissions: config.permissions.clone(),
        audit: audit.clone(),
    };
    let path = config.data.join("ledger.redb");
    let until = tokio::time::Instant::now() + OVERLAP;
    let ledger = loop {
        match Ledger::open(&path) {
            // One that is ending has it a little longer.
            Err(LedgerError::InUse { .. }) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(LedgerError::InUse { .. }) => {
                return Err(RunError::InUse {
                    data: config.data.clone(),
                });
            }
            opened => break opened,
        }
    };
    let opened = match ledger {
        Ok(ledger) => Agents::open(context(ledger)).map_err(anyhow::Error::from),
        Err(error) => Err(error.into()),
    };
    match opened {
        Ok(agents) => Ok(Some(agents)),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "no agents are run");
            Ok(None)
        }
    }
}

/// Where questions and decisions are noted. Without it everything else is done.
fn open_audit(config: &Config, house: &House) -> Audit {
    Audit::open(config.audit.clone(), Arc::clone(&house.clock)).unwrap_or_else(|error| {
        tracing::warn!(%error, "what is asked and decided is not noted");
        Audit::default()
    })
}

/// Where questions are asked.
fn open_desk(config: &Config, agents: &Agents) -> Option<AskDesk> {
    let rules = config.ask.clone().unwrap_or_default();
    match AskDesk::open(rules, agents.clone()) {
        Ok(desk) => Some(desk),
        Err(error) => {
            tracing::error!(%error, "no questions are answered");
            None
        }
    }
}

/// Has hooks of agents on this machine served. Without that they make their checkpoints themselves.
fn hear_hooks(config: &Config, api: Arc<Api>) -> Option<tokio::task::JoinHandle<()>> {
    match HookDoor::open(&config.data) {
        Ok(door) => Some(tokio::spawn(door.serve(api))),
        Err(error) => {
            tracing::warn!(%error, "hooks make their checkpoints without this server");
            None
        }
    }
}

/// Says as often as the service manager wants to hear it that requests are still taken up.
fn feed_watchdog(supervisor: Arc<Supervisor>) -> Option<tokio::task::JoinHandle<()>> {
    let mut often = tokio::time::interval(supervisor.watchdog()?);
    Some(tokio::spawn(async move {
        loop {
            often.tick().await;
            supervisor.tell("WATCHDOG=1");
        }
    }))
}

/// Closes workspaces that nobody has asked for lately.
async fn let_go_of_idle(house: Arc<House>, workspaces: Arc<Residents>) {
    let mut often = tokio::time::interval(
        house
            .limits
            .workspace_idle
            .clamp(Duration::from_secs(1), Duration::from_secs(60)),
    );
    loop {
        often.tick().await;
        let workspaces = Arc::clone(&workspaces);
        // Without a free worker, the next time.
        let _ = house
            .workers
            .call(Lane::Short, None, move || workspaces.let_go_of_idle())
            .await;
    }
}

/// Clears away what a killed process left, beside the traffic: a large tree of names takes a while to walk.
fn sweep_beside(depot: Arc<Depot>) -> Result<(), RunError> {
    std::thread::Builder::new()
        .name("sweep".to_owned())
        .spawn(move || {
            match depot.sweep() {
                Ok(0) => {}
                Ok(removed) => tracing::info!(
                    removed,
                    "removed half-made or half-deleted repositories of an earlier process"
                ),
                Err(error) => tracing::warn!(%error, "cannot look for what an earlier process left"),
            }
            match depot.recover_workspaces() {
                Ok(0) => {}
                Ok(finished) => tracing::info!(finished, "finished what an earlier process left in workspaces"),
                Err(error) => tracing::warn!(%error, "cannot look for what an earlier process left in workspaces"),
            }
        })
        .map(drop)
        .map_err(io_error("start a thread"))
}

/// The address on the first line of standard output, for programs; how to go on, on standard error, for people.
fn announce(config: &Config, local: std::net::SocketAddr) {
    let mut shown = local;
    if local.ip().is_unspecified() {
        // Nobody can type 0.0.0.0 into a client everywhere; this machine's own name for itself works here.
        let loopback: std::net::IpAddr = match local {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        shown.set_ip(loopback);
    }
    let mut out = io::stdout().lock();
    // A closed standard output is no reason not to serve.
    let _ = writeln!(out, "gitstead listening on http://{shown}").and_then(|()| out.flush());
    tracing::info!(address = %local, repositories = %config.repos.display(), "serving");
    let mut err = io::stderr().lock();
    if config.rules.insecure_open && !config.rules.authentication_configured() {
        tracing::warn!("--insecure-open: everyone who can reach {local} may fetch and push");
    }
    if config.layout != Layout::Names {
        let _ = writeln!(err, "  memories of Letta's agents: {}", config.repos.display());
        let _ = writeln!(err, "  for the Letta server: LETTA_MEMFS_SERVICE_URL=http://{shown}");
        let _ = writeln!(
            err,
            "  for letta-code without it: LETTA_MEMFS_LOCAL=1 LETTA_MEMFS_BASE_URL=http://{shown}"
        );
        return;
    }
    let prefix = &config.url_prefix;
    let _ = writeln!(err, "  clone: git clone http://{shown}{prefix}/NAME");
    let how = if config.create_on_push {
        "   (a new NAME makes the repository)"
    } else {
        ""
    };
    let _ = writeln!(err, "  push:  git push http://{shown}{prefix}/NAME main{how}");
}

/// Connections, packs and indices are files; the soft limit is often 1,024.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current != now.maximum {
        let most = Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, most) {
            tracing::debug!(%error, "cannot raise the limit of open files");
        }
    }
}
