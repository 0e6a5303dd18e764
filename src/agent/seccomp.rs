//! What an agent in a sandbox may ask of the kernel: what programs ask for, and not what breaks out of one (seccomp, `Documentation/userspace-api/seccomp_filter.rst` of the kernel).
//!
//! It is a list of what is denied, with EPERM: all else is for landlock and the rights of the user to say. In the same way the agent is kept from ending its own parent process,
//! which older kernels (before 6.12) would let it, and the server as far as that can be told: a signal to any of a process's threads ends all of it there, and which threads the server
//! has no list made before knows. Numbers of processes are compared as the kernel reads them, by their low 32 bits.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::sandbox::Calls;

/// Not every C library has a name for it.
const KEXEC_FILE_LOAD: i64 = if cfg!(target_arch = "x86_64") { 320 } else { 294 };
/// What no user's program needs: the kernel itself, its time, its keys, other processes' memory, and what has been a way out before.
const DENIED: &[i64] = &[
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
];
/// Those that only one kind of processor has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[i64] = &[];
/// What makes another world of files, names or hosts, or goes into one; `open_tree_attr` is the last.
const WORLDS: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    467,
];
/// The kinds of namespaces (`CLONE_NEW…`) as `clone` and `unshare` take them; that of time only the latter does: its bit says for the former which signal tells of the end.
const NAMESPACES: [u64; 7] = [
    0x0002_0000, // mounts
    0x0200_0000, // cgroups
    0x0400_0000, // host names
    0x0800_0000, // System V's means of communication
    0x1000_0000, // users
    0x2000_0000, // processes
    0x4000_0000, // networks
];
const NAMESPACE_OF_TIME: u64 = 0x80;
/// What `personality` may be asked for: what it is, plain Linux, and the same for 32 bits or with the names of an older kernel.
const PERSONALITIES: [u64; 5] = [0xffff_ffff, 0, 8, 0x2_0000, 0x2_0008];
/// Kinds of sockets that reach what is beside or beneath this system: `AF_ALG`, `AF_VSOCK`.
const FAMILIES: [u64; 2] = [38, 40];
/// Ways of going around rules for TCP ports: other protocols that carry a stream (DCCP, SCTP, SMC, MPTCP), and `AF_PACKET`, `AF_RDS`, `AF_TIPC`, `AF_SMC`.
const PROTOCOLS: [u64; 4] = [33, 132, 256, 262];
const LINKS: [u64; 4] = [17, 21, 30, 43];
/// `AF_INET` and `AF_INET6`, where these kinds of sockets (`SOCK_SEQPACKET`, `SOCK_DCCP`) are such a protocol without naming it. Unix has the first one, too.
const INTERNET: [u64; 2] = [2, 10];
const STREAMS_OF_RECORDS: [u64; 2] = [5, 6];
/// Where the kind of a socket stands beside its flags.
const KIND: u64 = 0xf;
/// `PRIO_USER`, for `setpriority`; `IOPRIO_WHO_USER` for `ioprio_set`.
const ALL_OF_A_USER: [(i64, u64); 2] = [(libc::SYS_setpriority, 2), (libc::SYS_ioprio_set, 3)];
/// `SOCK_RAW`.
const RAW: u64 = 3;
/// `MSG_FASTOPEN`: a connection without a `connect`.
const FAST_OPEN: u64 = 0x2000_0000;
/// Who is told of a descriptor by which signal: `F_SETOWN`, `F_SETOWN_EX`, and for sockets `FIOSETOWN`, `SIOCSPGRP`.
const SET_OWNER: (u64, u64) = (8, 15);
const SET_OWNER_OF_SOCKET: [u64; 2] = [0x8901, 0x8902];

/// Bounds this thread and whatever it starts, for good. It gains no privileges any more, either.
///
/// # Errors
/// Why the system has no such thing.
pub(super) fn restrict(calls: &Calls) -> Result<(), String> {
    let programs = programs(calls, std::env::consts::ARCH)?;
    for program in programs {
        // `EmptyFilter` cannot be.
        seccompiler::apply_filter(&program).map_err(|error| match error {
            seccompiler::Error::Prctl(why) | seccompiler::Error::Seccomp(why) => why.to_string(),
            other => other.to_string(),
        })?;
    }
    Ok(())
}

/// The programs for the kernel, for a processor of this kind. The one for the wrong kind of call ends whoever makes it.
fn programs(calls: &Calls, arch: &str) -> Result<Vec<BpfProgram>, String> {
    let arch = TargetArch::try_from(arch).map_err(|_| format!("the calls of a processor '{arch}' are not known"))?;
    let build = |(rules, errno): (Rules, i32)| -> Result<BpfProgram, BackendError> {
        let errno = SeccompAction::Errno(errno.unsigned_abs());
        SeccompFilter::new(rules, SeccompAction::Allow, errno, arch)?.try_into()
    };
    let rules = unknown(calls).and_then(|unknown| Ok([(unknown, libc::ENOSYS), (denied(calls)?, libc::EPERM)]));
    let built = rules.and_then(|rules| {
        let filled = rules.into_iter().filter(|(rules, _)| !rules.is_empty());
        filled.map(build).collect::<Result<Vec<_>, _>>()
    });
    let mut programs = built.map_err(|error| error.to_string())?;
    if matches!(arch, TargetArch::x86_64) {
        programs.insert(0, other_numbers());
    }
    Ok(programs)
}

/// On x86-64 there is a second set of numbers for the same calls (x32), above this one; as if the kernel did not know it, as most do not.
fn other_numbers() -> BpfProgram {
    const FIRST: u32 = 0x4000_0000;
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IF_NOT_BELOW: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let step = |code, jt, k| seccompiler::sock_filter { code, jt, jf: 0, k };
    let errno = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    vec![
        // The number of the call is the first thing that is known of it.
        step(LOAD, 0, 0),
        step(IF_NOT_BELOW, 1, FIRST),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, errno),
    ]
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// A rule that holds where all of this is so of the arguments.
fn when(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions
        .iter()
        .map(|(at, is, value)| SeccompCondition::new(*at, Dword, is.clone(), *value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

fn equal(at: u8, value: u64) -> Result<SeccompRule, BackendError> {
    when(&[(at, SeccompCmpOp::Eq, value)])
}

/// At least one bit of it is set.
fn has(at: u8, bit: u64) -> Result<SeccompRule, BackendError> {
    when(&[(at, SeccompCmpOp::MaskedEq(bit), bit)])
}

/// What is as if the kernel did not have it, so that a program does it in another way.
fn unknown(calls: &Calls) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    if !calls.user_namespaces {
        // What it is to make stands in memory, where a filter cannot look.
        rules.insert(libc::SYS_clone3, Vec::new());
    }
    if !calls.scoped {
        // A directory in `/proc` does for a descriptor of any process.
        rules.insert(libc::SYS_pidfd_send_signal, Vec::new());
    }
    Ok(rules)
}

fn denied(calls: &Calls) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in DENIED.iter().chain(DENIED_HERE) {
        rules.insert(*call, Vec::new());
    }
    let sane = PERSONALITIES.map(|one| (0, SeccompCmpOp::Ne, one));
    rules.insert(libc::SYS_personality, vec![when(&sane)?]);
    let mut add = |call: i64, rule: SeccompRule| rules.entry(call).or_default().push(rule);
    for family in FAMILIES {
        add(libc::SYS_socket, equal(0, family)?);
    }
    if calls.ports {
        for protocol in PROTOCOLS {
            add(libc::SYS_socket, equal(2, protocol)?);
        }
        for family in LINKS {
            add(libc::SYS_socket, equal(0, family)?);
        }
        add(libc::SYS_socket, when(&[(1, SeccompCmpOp::MaskedEq(KIND), RAW)])?);
        for (family, kind) in INTERNET
            .iter()
            .flat_map(|family| STREAMS_OF_RECORDS.map(|kind| (*family, kind)))
        {
            let both = [(0, SeccompCmpOp::Eq, family), (1, SeccompCmpOp::MaskedEq(KIND), kind)];
            add(libc::SYS_socket, when(&both)?);
        }
        for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
            add(call, has(flags, FAST_OPEN)?);
        }
    }
    // A bound on the time that a process may compute ends it, by any of its threads: landlock does not look at that. Programs that bound themselves say 0.
    add(libc::SYS_prlimit64, when(&[(0, SeccompCmpOp::Ne, 0)])?);
    for (call, all) in ALL_OF_A_USER {
        add(call, equal(0, all)?);
    }
    for pid in calls.spared.iter().flatten() {
        spare(*pid, calls.scoped, &mut add)?;
    }
    if !calls.user_namespaces {
        for kind in NAMESPACES {
            add(libc::SYS_clone, has(0, kind)?);
            add(libc::SYS_unshare, has(0, kind)?);
        }
        add(libc::SYS_unshare, has(0, NAMESPACE_OF_TIME)?);
        for call in WORLDS {
            rules.insert(*call, Vec::new());
        }
    }
    Ok(rules)
}

/// Keeps a process, and the group that it leads, from being ended.
fn spare(pid: i32, scoped: bool, add: &mut impl FnMut(i64, SeccompRule)) -> Result<(), BackendError> {
    let low = |number: i32| u64::from(number as u32);
    // It, its group, and everybody.
    for target in [pid, -pid, -1] {
        add(libc::SYS_kill, equal(0, low(target))?);
    }
    for (call, at) in [
        (libc::SYS_tkill, 0),
        (libc::SYS_tgkill, 0),
        (libc::SYS_tgkill, 1),
        (libc::SYS_rt_sigqueueinfo, 0),
        (libc::SYS_rt_tgsigqueueinfo, 0),
        (libc::SYS_rt_tgsigqueueinfo, 1),
        (libc::SYS_pidfd_open, 0),
        // Nor does it wait for a processor, or for a disk, because of the agent.
        (libc::SYS_setpriority, 1),
        (libc::SYS_ioprio_set, 1),
        (libc::SYS_sched_setscheduler, 0),
        (libc::SYS_sched_setparam, 0),
        (libc::SYS_sched_setattr, 0),
        (libc::SYS_sched_setaffinity, 0),
        // Who is in its group may send that a signal by the number 0.
        (libc::SYS_setpgid, 1),
    ] {
        add(call, equal(at, low(pid))?);
    }
    if !scoped {
        for target in [pid, -pid] {
            let told = (2, SeccompCmpOp::Eq, low(target));
            add(libc::SYS_fcntl, when(&[(1, SeccompCmpOp::Eq, SET_OWNER.0), told])?);
        }
        // Whom these name stands in memory.
        add(libc::SYS_fcntl, equal(1, SET_OWNER.1)?);
        for request in SET_OWNER_OF_SOCKET {
            add(libc::SYS_ioctl, equal(1, request)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::{
        io::Errno,
        process::{self, PidfdFlags, Signal},
    };

    use super::*;

    /// Does something in a thread that is held, and what is to be said where there is no such thing.
    fn held<T: Send>(calls: Calls, act: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| match restrict(&calls) {
                Ok(()) => Some(act()),
                Err(why) => {
                    eprintln!("this system has no seccomp ({why}): nothing was tested");
                    None
                }
            });
            done.join().expect("no panic")
        })
    }

    #[test]
    fn a_process_that_is_to_be_spared_is_sent_no_signal_in_any_way() {
        // Not this process: it is the one that the test would be looked at by.
        let other = process::getppid().expect("somebody has started this");
        let raw = other.as_raw_nonzero().get();
        let calls = Calls {
            spared: [Some(raw), None],
            ..Calls::default()
        };
        assert_eq!(process::test_kill_process(other), Ok(()), "before, it may be");
        let me = process::getpid();
        let seen = held(calls, || {
            let fd = process::pidfd_open(me, PidfdFlags::empty()).expect("of itself");
            let limit = process::getrlimit(process::Resource::Core);
            [
                process::test_kill_process(other),
                process::test_kill_process_group(other),
                process::pidfd_open(other, PidfdFlags::empty()).map(drop),
                process::prlimit(Some(other), process::Resource::Core, limit).map(drop),
                process::setpgid(None, Some(other)),
                process::pidfd_send_signal(&fd, Signal::URG),
                process::test_kill_process(me),
            ]
        });
        let denied = Err(Errno::PERM);
        let Some(seen) = seen else { return };
        assert_eq!(seen[..5], [denied; 5]);
        assert_eq!((seen[5], seen[6]), (Err(Errno::NOSYS), Ok(())));
        assert_eq!(process::test_kill_process(other), Ok(()), "other threads are free");
        // Where the kernel sees to it, less is denied.
        let scoped = Calls { scoped: true, ..calls };
        let sent = held(scoped, || {
            let fd = process::pidfd_open(me, PidfdFlags::empty()).expect("of itself");
            process::pidfd_send_signal(&fd, Signal::URG)
        });
        assert_eq!(sent, Some(Ok(())));
    }

    #[test]
    fn sockets_beside_tcp_are_denied_only_where_ports_are_bounded() {
        use rustix::net::{AddressFamily, Protocol, SocketType, socket};
        let tries = || {
            let number = |number: u32| std::num::NonZeroU32::new(number).map(Protocol::from_raw);
            let make = |family, kind, protocol| socket(family, kind, protocol).map(drop);
            [
                make(AddressFamily::VSOCK, SocketType::STREAM, None),
                make(AddressFamily::INET, SocketType::STREAM, number(262)),
                make(AddressFamily::INET, SocketType::STREAM, number(132)),
                make(AddressFamily::INET, SocketType::RAW, number(255)),
                make(AddressFamily::INET, SocketType::STREAM, number(256)),
                make(AddressFamily::INET, SocketType::SEQPACKET, None),
                make(AddressFamily::INET6, SocketType::from_raw(6), None),
                make(AddressFamily::from_raw(21), SocketType::SEQPACKET, None),
                make(AddressFamily::from_raw(30), SocketType::STREAM, None),
                make(AddressFamily::INET, SocketType::STREAM, None),
                make(AddressFamily::INET, SocketType::DGRAM, None),
                make(AddressFamily::UNIX, SocketType::STREAM, None),
                make(AddressFamily::UNIX, SocketType::SEQPACKET, None),
            ]
        };
        let free = tries();
        let Some(some) = held(Calls::default(), tries) else {
            return;
        };
        assert_eq!((some[0], &some[1..]), (Err(Errno::PERM), &free[1..]));
        let ports = Calls {
            ports: true,
            ..Calls::default()
        };
        let none = held(ports, tries).expect("it was there a moment ago");
        assert_eq!((&none[..9], &none[9..]), (&[Err(Errno::PERM); 9][..], &free[9..]));
    }

    #[test]
    fn threads_and_processes_are_started_as_ever() {
        let calls = Calls::default();
        let started = held(calls, || {
            let inner = std::thread::spawn(|| 7).join().expect("it is started");
            let other = std::thread::Builder::new()
                .spawn(process::getpid)
                .expect("it is started");
            (inner, other.join().expect("it ends"))
        });
        assert!(started.is_none_or(|both| both == (7, process::getpid())));
    }

    #[test]
    fn a_program_for_the_kernel_is_short_enough_and_there_is_none_for_what_is_not_known() {
        let calls = Calls {
            user_namespaces: false,
            ports: true,
            scoped: false,
            spared: [Some(1), Some(i32::MAX)],
        };
        for arch in ["x86_64", "aarch64"] {
            let programs = programs(&calls, arch).expect("it is known");
            assert!(programs.iter().all(|program| program.len() < 1_000), "{arch}");
            assert_eq!(programs.len(), if arch == "x86_64" { 3 } else { 2 });
        }
        assert!(programs(&calls, "s390x").is_err_and(|why| why.contains("s390x")));
        let lax = Calls {
            user_namespaces: true,
            scoped: true,
            ..Calls::default()
        };
        assert!(unknown(&lax).expect("rules").is_empty());
        assert!(!denied(&lax).expect("rules").contains_key(&libc::SYS_mount));
    }
}
