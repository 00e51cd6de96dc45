//! What the system can do for secrets in memory: no core dumps, no reading by other processes of the same user, no swap.
//!
//! Promises: says what it did and what it couldn't; where the system refuses, the process runs on without it.
//! Refuses: to lock memory under a limit that a running custodian would hit, because then its allocations would fail.

use std::fmt;

/// What [`harden`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardening {
    /// A crash writes no memory to disk.
    pub core_dumps: Done,
    /// Other processes of this user can't attach to it and read its memory (Linux).
    pub attaching: Done,
    /// Its memory isn't written to swap.
    pub swap: Done,
}

/// One measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// In force.
    Yes,
    /// Not in force, and what to do about it.
    No(String),
}

impl fmt::Display for Hardening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (what, done) in [
            ("core dumps are possible", &self.core_dumps),
            ("other processes of this user may read its memory", &self.attaching),
            ("its memory may be written to swap", &self.swap),
        ] {
            if let Done::No(why) = done {
                write!(f, "{}{what} ({why})", if first { "" } else { "; " })?;
                first = false;
            }
        }
        if first { f.write_str("no core dumps, no swap, closed to other processes") } else { Ok(()) }
    }
}

impl Hardening {
    /// Is all of it in force?
    pub fn is_whole(&self) -> bool {
        [&self.core_dumps, &self.attaching, &self.swap].into_iter().all(|done| *done == Done::Yes)
    }
}

/// Takes the measures for this process. To be called before any secret is read.
pub fn harden() -> Hardening {
    Hardening { core_dumps: core_dumps(), attaching: attaching(), swap: swap() }
}

fn outcome<T>(result: rustix::io::Result<T>, what: &str) -> Done {
    match result {
        Ok(_) => Done::Yes,
        Err(error) => Done::No(format!("{what}: {error}")),
    }
}

fn core_dumps() -> Done {
    use rustix::process::{Resource, Rlimit, setrlimit};
    outcome(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }), "setrlimit")
}

#[cfg(target_os = "linux")]
fn attaching() -> Done {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    // Closes /proc/<pid>/mem and ptrace to processes without privileges, and keeps core dumps from pipes to helpers too.
    outcome(set_dumpable_behavior(DumpableBehavior::NotDumpable), "prctl")
}

#[cfg(not(target_os = "linux"))]
fn attaching() -> Done {
    Done::No("this system has no such switch".into())
}

#[cfg(target_os = "linux")]
fn swap() -> Done {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Memlock);
    if limit.current != limit.maximum {
        // To raise the soft limit is everybody's right. If it fails, what follows says so.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    if limit.maximum.is_some() && !geteuid().is_root() {
        return Done::No(
            "the limit of locked memory is too low; set LimitMEMLOCK=infinity for the service".into(),
        );
    }
    // On fault: what is reserved and never touched (stacks, arenas) isn't made resident.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    outcome(mlockall(flags), "mlockall; set LimitMEMLOCK=infinity for the service")
}

#[cfg(not(target_os = "linux"))]
fn swap() -> Done {
    Done::No("memory is locked on Linux only".into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Set in the child, which must not be the process of all other tests.
    const CHILD: &str = "CONCORDAT_TEST_HARDEN";

    #[test]
    fn a_hardened_process_leaves_no_core_and_says_what_it_could_not_do() {
        if std::env::var_os(CHILD).is_none() {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            again.args([
                "--exact",
                "harden::tests::a_hardened_process_leaves_no_core_and_says_what_it_could_not_do",
            ]);
            assert!(again.env(CHILD, "1").status().unwrap().success());
            return;
        }
        let done = harden();
        assert_eq!((&done.core_dumps, &done.attaching), (&Done::Yes, &Done::Yes), "{done}");
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
        let secret = vec![7_u8; 1 << 20];
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        let locked: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
        match &done.swap {
            Done::Yes => assert!(locked >= 1024, "{locked} kB of a megabyte are locked"),
            Done::No(why) => assert!(why.contains("LimitMEMLOCK") && !done.is_whole(), "{why}"),
        }
        assert_eq!(secret.len(), 1 << 20);
    }
}
