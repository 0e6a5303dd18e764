//! What an agent can reach of the files, bounded by the kernel (landlock): what is on the list, and nothing else.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access as _, AccessFs, LandlockStatus, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::launch::{Sandbox, SpawnFailure, SpawnFault};

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

/// Bounds this thread and whatever it starts, for good; `program` is a file that it may execute wherever that is. Returns the version of the rules that hold; `None` when the system has none and that is not required.
///
/// # Errors
/// When there has to be a sandbox and there can be none.
pub(super) fn restrict(sandbox: &Sandbox, program: Option<BorrowedFd<'_>>) -> Result<Option<u32>, SpawnFailure> {
    let failed = |text: String| SpawnFailure {
        fault: SpawnFault::NoSandbox,
        text,
    };
    match rules(sandbox, program) {
        Ok(status) => {
            version(&status.ruleset, &status.landlock, sandbox.required).map_err(|why| failed(why.to_owned()))
        }
        Err(error) => Err(failed(format!("it cannot be put into a sandbox: {error}"))),
    }
}

fn rules(sandbox: &Sandbox, program: Option<BorrowedFd<'_>>) -> Result<RestrictionStatus, RulesetError> {
    let (all, read) = (AccessFs::from_all(RULES), AccessFs::from_read(RULES));
    let program = program.map(|file| Ok::<_, RulesetError>(PathBeneath::new(file, read & AccessFs::from_file(RULES))));
    // What is not there is skipped: it is not to be reached, either.
    Ruleset::default()
        .handle_access(all)?
        // Nor does it send signals to anybody but its own.
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(&sandbox.write, all))?
        .add_rules(path_beneath_rules(
            DEVICES,
            AccessFs::from_file(RULES) | AccessFs::ReadDir,
        ))?
        .add_rules(path_beneath_rules(&sandbox.read, read))?
        .add_rules(program)?
        .restrict_self()
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
            required: false,
            read: vec![read.clone(), dir.path().join("not there")],
            write: vec![mine.clone()],
        };
        let held = std::thread::scope(|scope| {
            let held = scope.spawn(|| {
                let held = restrict(&sandbox, None).expect("not required");
                held.map(|_| {
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
