//! Network namespaces that are named by a process in them. What a pid stands for is settled when it is first asked for,
//! by a pidfd, so that it is never taken for the next process of that number; and what namespace that was, by a
//! descriptor, so that linnet can leave in order when the process has ended. Must never hold that one longer.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::live::holders;

/// What the name of such a namespace begins with; its number follows.
const PREFIX: &str = "pid:";
/// What may follow that in a record: when the process started, in the kernel's ticks since the boot.
const SINCE: char = '@';

/// Processes by their numbers. One that has ended stays, as what its number stands for.
static KNOWN: Mutex<BTreeMap<i32, Known>> = Mutex::new(BTreeMap::new());

/// What a number stands for.
#[derive(Debug)]
struct Known {
    process: Arc<OwnedFd>,
    since_ticks: u64,
    /// Until linnet has left it.
    namespace: Option<Arc<File>>,
}

/// A namespace as its process has it.
#[derive(Clone, Debug)]
pub(in crate::live) struct ByProcess {
    /// Readable once the process has ended.
    pub(in crate::live) process: Arc<OwnedFd>,
    pub(in crate::live) namespace: Arc<File>,
    /// The process has ended, and linnet has not left yet.
    pub(in crate::live) ended: bool,
}

/// Whether a name looks like one by pid, or like that of a record, and is no such name: then it is nobody's.
pub(in crate::live) fn is_misspelt(name: &str) -> bool {
    let number = name.strip_prefix(PREFIX);
    number.is_some_and(|it| it.starts_with(|c: char| c.is_ascii_digit())) && pid_of(name).is_none()
}

/// The pid that a namespace is named by; `None` where it is not, or by a number that no process can have.
pub(in crate::live) fn pid_of(name: &str) -> Option<i32> {
    let pid: i32 = name.strip_prefix(PREFIX)?.parse().ok()?;
    // One form for each number.
    (pid > 0 && name == format!("{PREFIX}{pid}")).then_some(pid)
}

/// The namespace of a process. The first call settles which process that is; where it has ended and linnet has left,
/// there is none any more.
pub(in crate::live) fn namespace(pid: i32) -> io::Result<ByProcess> {
    let mut known = known();
    let found = match known.entry(pid) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => place.insert(Known::find(pid)?),
    };
    let namespace = found.namespace.as_ref().ok_or_else(has_ended)?;
    Ok(ByProcess {
        process: Arc::clone(&found.process),
        namespace: Arc::clone(namespace),
        ended: holders::has_ended(&found.process, Duration::ZERO)?,
    })
}

/// Linnet has left the namespace of a process that has ended.
pub(in crate::live) fn leave(pid: i32) {
    if let Some(known) = known().get_mut(&pid)
        && holders::has_ended(&known.process, Duration::ZERO).unwrap_or(false)
    {
        known.namespace = None;
    }
}

/// Whether it is known that the process has ended.
pub(in crate::live) fn is_known_to_have_ended(pid: i32) -> bool {
    known()
        .get(&pid)
        .is_some_and(|known| holders::has_ended(&known.process, Duration::ZERO).unwrap_or(false))
}

/// The name for a record, which another run of linnet may read: it says which of all processes of that number.
pub(in crate::live) fn name_for_record(name: &str) -> String {
    let since = pid_of(name).and_then(|pid| known().get(&pid).map(|known| known.since_ticks));
    since.map_or_else(|| name.to_owned(), |since| format!("{name}{SINCE}{since}"))
}

/// The namespace of a record's name, where the process is still the same; `None` where it is by no process.
pub(in crate::live) fn namespace_of_record(name: &str) -> Option<io::Result<Arc<File>>> {
    let (name, since) = name.rsplit_once(SINCE)?;
    let (pid, since) = (pid_of(name)?, since.parse::<u64>().ok()?);
    let find = || {
        let is_it = |found: &u64| *found == since;
        if let Some(known) = known().get(&pid).filter(|known| is_it(&known.since_ticks)) {
            return known.namespace.clone().ok_or_else(has_ended);
        }
        // Anyone may ask when a process started, but not everyone for its namespace.
        if !is_it(&since_of(pid)?) {
            return Err(has_ended());
        }
        let found = Known::find(pid)?;
        found.namespace.filter(|_| is_it(&found.since_ticks)).ok_or_else(has_ended)
    };
    Some(find())
}

impl Known {
    fn find(pid: i32) -> io::Result<Self> {
        let process = open(pid)?;
        let namespace = File::open(format!("/proc/{pid}/ns/net")).map_err(may_not)?;
        let since_ticks = since_of(pid)?;
        // A number is free again only after its process: as long as that has not ended, the files are its own.
        if holders::has_ended(&process, Duration::ZERO)? {
            return Err(has_ended());
        }
        Ok(Self { process: Arc::new(process), since_ticks, namespace: Some(Arc::new(namespace)) })
    }
}

fn known() -> MutexGuard<'static, BTreeMap<i32, Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what is missing where the kernel does not let this process look.
fn may_not(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let why = "looking into a process needs CAP_SYS_PTRACE at the start";
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

fn has_ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process has ended")
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
        Errno::SRCH => io::Error::new(io::ErrorKind::NotFound, "there is no such process"),
        other => other.into(),
    })
}

/// Field 22 of the process's stat, behind its name, which may hold anything.
fn since_of(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let since = fields.split_whitespace().nth(19).and_then(|field| field.parse().ok());
    since.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn child() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_namespace_by_pid_has_one_form() {
        assert_eq!(pid_of("pid:1234"), Some(1_234));
        for name in ["pid:", "pid:0", "pid:-1", "pid:+1", "pid:012", "pid:4294967297", "pid", "1"] {
            assert_eq!(pid_of(name), None, "{name}");
        }
        assert!(["pid:0", "pid:012", "pid:1x", "pid:1@2"].into_iter().all(is_misspelt));
        assert!(!["pid:1", "pid:", "pid:x", "pid", "1"].into_iter().any(is_misspelt));
    }

    #[test]
    fn a_process_that_has_ended_is_gone_for_good() {
        let mut child = child();
        let pid = i32::try_from(child.id()).unwrap();
        let name = format!("{PREFIX}{pid}");
        let found = namespace(pid).unwrap();
        assert!(!found.ended && !is_known_to_have_ended(pid));
        let record = name_for_record(&name);
        assert!(record.starts_with(&format!("{name}@")), "{record}");
        namespace_of_record(&record).unwrap().unwrap();
        // The same number, of a process that started at another time.
        let other = format!("{name}@7");
        assert_eq!(
            namespace_of_record(&other).unwrap().unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        leave(pid);
        assert!(!namespace(pid).unwrap().ended, "one that lives is not left");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(namespace(pid).unwrap().ended && is_known_to_have_ended(pid));
        leave(pid);
        let error = namespace(pid).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(namespace_of_record(&record).unwrap().is_err());
    }
}
