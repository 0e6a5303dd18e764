//! What an agent can reach, bounded by the kernel: of the files what is on the list (landlock), of TCP's ports those on theirs, and of the kernel itself what programs need (seccomp).

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, NetPort, PathBeneath, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::{
    launch::{Isolation, Sandbox, SpawnFailure, SpawnFault},
    seccomp,
};

/// The newest rules that are asked for; an older kernel has those that it knows.
const RULES: ABI = ABI::V6;
/// What every program may need and nothing of which is a file of anybody's.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];

/// Since when there are rules for ports, and since when signals go to nobody else.
const PORTS: u32 = 4;
const SIGNALS: u32 = 6;

/// What is denied of the kernel's calls, beside what always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Calls {
    /// Whether namespaces of its own may be made.
    pub(super) user_namespaces: bool,
    /// Whether it is bounded to which ports it connects, or on which it listens.
    pub(super) ports: bool,
    /// Whether the kernel itself sees to it that signals go to nobody else.
    pub(super) scoped: bool,
    /// Those which it must not end.
    pub(super) spared: [Option<i32>; 2],
}

/// Bounds this thread and whatever it starts, for good, and notes what holds; `program` is a file that it may execute wherever that is, `spared` are processes that it must not end.
///
/// # Errors
/// When there has to be a sandbox and there can be none.
pub(super) fn restrict(
    sandbox: &Sandbox,
    program: Option<BorrowedFd<'_>>,
    spared: [Option<i32>; 2],
    isolation: &mut Isolation,
) -> Result<(), SpawnFailure> {
    let failed = |text: String| SpawnFailure {
        fault: SpawnFault::NoSandbox,
        text,
    };
    let status =
        rules(sandbox, program).map_err(|error| failed(format!("it cannot be put into a sandbox: {error}")))?;
    let version = version(&status.ruleset, &status.landlock, sandbox.required);
    let version = version.map_err(|why| failed(why.to_owned()))?;
    isolation.landlock = version;
    let has_ports = version.is_some_and(|version| version >= PORTS);
    for (what, ports, held) in [
        ("connect", &sandbox.connect, &mut isolation.connect),
        ("bind", &sandbox.bind, &mut isolation.bind),
    ] {
        let Some(ports) = ports else { continue };
        if has_ports {
            *held = Some(ports.clone());
        } else if sandbox.required {
            let text =
                format!("it has to be bounded to which ports it may {what}, and this system's landlock cannot do that");
            return Err(failed(text));
        } else {
            let why = format!("{what}: this system's landlock has no rules for ports");
            isolation.missing.push(why);
        }
    }
    let calls = Calls {
        user_namespaces: sandbox.user_namespaces,
        ports: sandbox.connect.is_some() || sandbox.bind.is_some(),
        scoped: version.is_some_and(|version| version >= SIGNALS),
        spared,
    };
    match seccomp::restrict(&calls) {
        Ok(()) => isolation.seccomp = true,
        Err(why) if sandbox.required => {
            return Err(failed(format!(
                "it has to be in a sandbox, and this system cannot bound which calls it makes: {why}"
            )));
        }
        Err(why) => isolation.missing.push(format!("seccomp: {why}")),
    }
    Ok(())
}

fn rules(sandbox: &Sandbox, program: Option<BorrowedFd<'_>>) -> Result<RestrictionStatus, RulesetError> {
    let (all, read) = (AccessFs::from_all(RULES), AccessFs::from_read(RULES));
    let program = program.map(|file| Ok::<_, RulesetError>(PathBeneath::new(file, read & AccessFs::from_file(RULES))));
    let ports = [
        (&sandbox.connect, AccessNet::ConnectTcp),
        (&sandbox.bind, AccessNet::BindTcp),
    ];
    // What is not there is skipped: it is not to be reached, either.
    let mut ruleset = Ruleset::default()
        .handle_access(all)?
        // Nor does it send signals to anybody but its own.
        .scope(Scope::Signal)?;
    for (_, access) in ports.iter().filter(|(ports, _)| ports.is_some()) {
        ruleset = ruleset.handle_access(*access)?;
    }
    let mut ruleset = ruleset
        .create()?
        .add_rules(path_beneath_rules(&sandbox.write, all))?
        .add_rules(path_beneath_rules(
            DEVICES,
            AccessFs::from_file(RULES) | AccessFs::ReadDir,
        ))?
        .add_rules(path_beneath_rules(&sandbox.read, read))?
        .add_rules(program)?;
    for (ports, access) in ports {
        for port in ports.iter().flatten() {
            ruleset = ruleset.add_rule(NetPort::new(*port, access))?;
        }
    }
    ruleset.restrict_self()
}

fn version(ruleset: &RulesetStatus, landlock: &LandlockStatus, required: bool) -> Result<Option<u32>, &'static str> {
    let abi = match (ruleset, landlock) {
        (RulesetStatus::NotEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => u32::try_from(*effective_abi as i32).ok(),
        _ => None,
    };
    match abi {
        None if required => Err("it has to be in a sandbox, and this system has no landlock"),
        abi => Ok(abi),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_thread_reaches_what_is_on_the_list_and_others_go_on_as_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mine, theirs, read) = (
            dir.path().join("mine"),
            dir.path().join("theirs"),
            dir.path().join("read"),
        );
        for path in [&mine, &theirs, &read] {
            fs::create_dir(path).expect("made");
            fs::write(path.join("file"), "x").expect("written");
        }
        let sandbox = Sandbox {
            read: vec![read.clone(), dir.path().join("not there")],
            write: vec![mine.clone()],
            ..Sandbox::default()
        };
        let held = std::thread::scope(|scope| {
            let held = scope.spawn(|| {
                let mut held = Isolation::default();
                restrict(&sandbox, None, [None; 2], &mut held).expect("not required");
                held.landlock.map(|_| {
                    fs::write(mine.join("new"), "y").expect("its own");
                    assert_eq!(fs::read_to_string(read.join("file")).expect("on the list"), "x");
                    assert!(fs::write(read.join("file"), "y").is_err());
                    assert!(fs::read_to_string(theirs.join("file")).is_err());
                    assert!(fs::read_dir(dir.path()).is_err());
                })
            });
            held.join().expect("no panic")
        });
        assert!(fs::read_to_string(theirs.join("file")).is_ok(), "this thread is free");
        if held.is_none() {
            eprintln!("this system has no landlock: nothing was tested");
        }
    }

    #[test]
    fn a_thread_connects_to_the_ports_that_are_listed_and_listens_where_it_may() {
        use std::net::{TcpListener, TcpStream};
        let (yes, no) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0"));
        let (yes, no) = (yes.expect("a port"), no.expect("a port"));
        let port = |listener: &TcpListener| listener.local_addr().expect("it has one").port();
        let (yes, no) = (port(&yes), port(&no));
        let connect = |port| TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.kind());
        let sandbox = Sandbox {
            connect: Some(vec![yes]),
            bind: Some(Vec::new()),
            ..Sandbox::default()
        };
        let seen = std::thread::scope(|scope| {
            let seen = scope.spawn(|| {
                let mut held = Isolation::default();
                restrict(&sandbox, None, [None; 2], &mut held).expect("not required");
                let listens = TcpListener::bind("127.0.0.1:0").map(drop).map_err(|error| error.kind());
                (held, connect(yes).map(drop), connect(no).map(drop), listens)
            });
            seen.join().expect("no panic")
        });
        let (held, to_yes, to_no, listens) = seen;
        if held.landlock.is_none_or(|version| version < PORTS) {
            eprintln!("this system has no rules for ports: nothing was tested");
            return;
        }
        let denied = Err(std::io::ErrorKind::PermissionDenied);
        assert_eq!((to_yes, to_no, listens), (Ok(()), denied, denied));
        assert_eq!((held.connect, held.bind), (Some(vec![yes]), Some(Vec::new())));
        assert!(connect(no).is_ok(), "this thread is free");
    }

    #[test]
    fn where_it_is_required_there_is_no_start_without_it() {
        let (none, missing) = (RulesetStatus::NotEnforced, LandlockStatus::NotImplemented);
        assert_eq!(version(&none, &missing, false), Ok(None));
        assert!(version(&none, &missing, true).is_err());
        let some = LandlockStatus::Available {
            effective_abi: ABI::V3,
            kernel_abi: None,
        };
        assert_eq!(version(&RulesetStatus::PartiallyEnforced, &some, true), Ok(Some(3)));
    }
}
