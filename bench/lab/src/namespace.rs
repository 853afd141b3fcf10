//! One network namespace with a name under /run/netns: made, entered, and removed on drop. Never
//! leaves the calling thread in another namespace, except by [`Namespace::enter`], which says so.
//!
//! Who owns a namespace is a file lock on it, held as long as the owner lives: so a name that
//! nobody locks is a leftover of a killed lab, whatever has become of the pid in its name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::LabError;

/// Where `ip netns` keeps its names.
pub const NAMESPACE_FOLDER: &str = "/run/netns";
/// How the lab's names begin.
pub(crate) const NAME_PREFIX: &str = "linnet-";

/// A network namespace of this process; dropped, its name goes away, and with its last user the
/// namespace itself.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    /// The namespace; locked, so that [`reap_stale`] leaves it alone.
    file: Arc<Flock<File>>,
    /// The mount point under it; locked for processes that see /run/netns without the mount.
    _mount_point: Flock<File>,
}

impl Namespace {
    /// Makes a namespace called `linnet-<pid>-<label>-<role>`.
    pub(crate) fn create(label: &str, role: &str) -> Result<Self, LabError> {
        let name = format!("{NAME_PREFIX}{}-{label}-{role}", std::process::id());
        let path = Path::new(NAMESPACE_FOLDER).join(&name);
        // Held until the namespace is locked, so that a reaper never sees it half made.
        let _folder = lock_folder()?;
        let failed = |action| {
            let name = name.clone();
            move |source: io::Error| LabError::Namespace { action, name, source }
        };
        let empty = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(failed("name"))?;
        let mount_point = lock(empty, FlockArg::LockExclusive).map_err(failed("lock"))?;
        let made = bind_new_namespace(&path)
            .and_then(|()| File::open(&path).map_err(failed("open")))
            .and_then(|file| lock(file, FlockArg::LockExclusive).map_err(failed("lock")));
        match made {
            Ok(file) => Ok(Self { name, path, file: Arc::new(file), _mount_point: mount_point }),
            Err(error) => {
                remove_name(&path).ok();
                Err(error)
            }
        }
    }

    /// Its name, as in `ip netns exec NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file, as for `nsenter --net=PATH`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it. Sockets made
    /// there stay in the namespace wherever they are used later. A panic of `work` continues here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("lab-run".to_owned());
            let handle = thread
                .spawn_scoped(scope, || self.enter().map(|()| work()))
                .map_err(|source| LabError::Thread { name: "lab-run".to_owned(), source })?;
            handle.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace for good. For threads made for this purpose
    /// only.
    pub fn enter(&self) -> Result<(), LabError> {
        self.entry().enter()
    }

    /// A right to enter that outlives a borrow of the namespace; while one exists the namespace
    /// stays locked.
    pub(crate) fn entry(&self) -> Entry {
        Entry { name: self.name.clone(), file: Arc::clone(&self.file) }
    }

    /// A command that will start inside the namespace. It keeps the caller's mounts (`ip netns
    /// exec` would hide bpffs).
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        // SAFETY: between fork and exec only setns(2) runs, which is async-signal-safe; the
        // descriptor is kept open by the closure.
        unsafe {
            command.pre_exec(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
            });
        }
        command
    }
}

/// See [`Namespace::entry`].
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    name: String,
    file: Arc<Flock<File>>,
}

impl Entry {
    /// Moves the calling thread into the namespace for good.
    pub(crate) fn enter(&self) -> Result<(), LabError> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| LabError::Namespace {
            action: "enter",
            name: self.name.clone(),
            source: errno.into(),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A failure leaves the name behind; the next lab reaps it, since the lock goes with this
        // process.
        remove_name(&self.path).ok();
    }
}

/// Removes the namespaces of labs that died without cleaning up, and returns their names. Leaves
/// every namespace alone that a living process owns, and every name that is not the lab's.
pub fn reap_stale() -> Result<Vec<String>, LabError> {
    let folder = Path::new(NAMESPACE_FOLDER);
    let failed = |source| LabError::NamespaceFolder { path: folder.to_owned(), source };
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let _folder = lock_folder()?;
    let mut reaped = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_lab_name(&name) && is_unowned(&entry.path()) && remove_name(&entry.path()).is_ok() {
            reaped.push(name);
        }
    }
    reaped.sort();
    Ok(reaped)
}

/// True for `linnet-<digits>-...`.
fn is_lab_name(name: &str) -> bool {
    let Some((pid, _)) = name.strip_prefix(NAME_PREFIX).and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit())
}

fn is_unowned(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| lock(file, FlockArg::LockExclusiveNonblock).is_ok())
}

/// Puts a new namespace at `path`, from a thread of its own, which then ends.
fn bind_new_namespace(path: &Path) -> Result<(), LabError> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| LabError::Privilege { source: errno.into() })?;
        let here = "/proc/thread-self/ns/net";
        mount(Some(here), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|errno| {
            let name = path.display().to_string();
            LabError::Namespace { action: "mount", name, source: errno.into() }
        })
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("lab-unshare".to_owned());
        let handle = thread
            .spawn_scoped(scope, make)
            .map_err(|source| LabError::Thread { name: "lab-unshare".to_owned(), source })?;
        handle.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn remove_name(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: not a mount point, a name left by a boot or a half-made namespace.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    fs::remove_file(path)
}

/// Makes /run/netns as `ip netns` does (a shared mount, so that names are seen in other mount
/// namespaces) and locks it.
fn lock_folder() -> Result<Flock<File>, LabError> {
    let path = Path::new(NAMESPACE_FOLDER);
    let failed = |source| LabError::NamespaceFolder { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
    let folder = File::open(path).map_err(failed)?;
    let folder = lock(folder, FlockArg::LockExclusive).map_err(failed)?;
    if is_mount_point().map_err(failed)? {
        return Ok(folder);
    }
    let none = None::<&str>;
    mount(Some(path), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .and_then(|()| mount(none, path, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none))
        .map_err(|errno| failed(errno.into()))?;
    Ok(folder)
}

/// True where the folder is already a mount of its own.
fn is_mount_point() -> io::Result<bool> {
    let mount_id = |path: &str| {
        let info = fs::read_to_string(path)?;
        let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        Ok::<_, io::Error>(line.map(|id| id.trim().to_owned()))
    };
    let folder = File::open(NAMESPACE_FOLDER)?;
    let parent =
        File::open(Path::new(NAMESPACE_FOLDER).parent().unwrap_or_else(|| Path::new("/")))?;
    let own = mount_id(&format!("/proc/self/fdinfo/{}", folder.as_raw_fd()))?;
    let above = mount_id(&format!("/proc/self/fdinfo/{}", parent.as_raw_fd()))?;
    Ok(own != above)
}

fn lock(file: File, how: FlockArg) -> io::Result<Flock<File>> {
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_with_a_pid_are_the_labs() {
        assert!(is_lab_name("linnet-17-demo-client"));
        assert!(!is_lab_name("linnet--demo"));
        assert!(!is_lab_name("linnet-x1-demo"));
        assert!(!is_lab_name("production"));
    }
}
