//! The folder of pinned maps: where the objects of several namespaces meet. One daemon owns it at a time.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::statfs,
};

use super::{AttachRequest, LiveError, attach, namespace};

/// Where Linux mounts its BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Folder beside the pins with an empty folder for each interface that may have filters of ours. Links end with their
/// process, but filters in a clsact qdisc do not, and a BPF file system holds no other files that could name them.
const FILTERS: &str = "filters";

/// A folder of pins that this process owns; emptied and removed when dropped.
#[derive(Debug)]
pub(super) struct PinDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PinDir {
    /// Takes the folder over. What a daemon that died left in it is removed.
    pub(super) fn claim(path: &Path) -> Result<Self, LiveError> {
        ensure_bpf_fs(path)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| failed("create", path, source))?;
        let lock = lock(path)?;
        let Detached { pins, filters } = clear(path)?;
        if pins + filters > 0 {
            tracing::info!(path = %path.display(), pins, filters, "removed what an earlier run left");
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Says that an interface may get filters, before it does.
    pub(super) fn remember_filters(&self, request: &AttachRequest) -> Result<(), LiveError> {
        let path = self.path.join(FILTERS).join(record(request));
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| failed("create", &path, source))
    }

    /// Says that it has none.
    pub(super) fn forget_filters(&self, request: &AttachRequest) {
        // Absent where it never had any.
        let _absent = fs::remove_dir(self.path.join(FILTERS).join(record(request)));
    }
}

/// An interface as the name of a folder. A BPF file system refuses dots.
fn record(request: &AttachRequest) -> String {
    request.to_string().replace('%', "%25").replace('/', "%2F").replace('.', "%2E")
}

/// The interface of such a name.
fn recorded(name: &str) -> Option<AttachRequest> {
    name.replace("%2E", ".").replace("%2F", "/").replace("%25", "%").parse().ok()
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let removed = clear(&self.path).and_then(|_| {
            fs::remove_dir(&self.path).map_err(|source| failed("remove", &self.path, source))
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "pins were left behind");
        }
    }
}

/// What [`detach`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Pinned maps.
    pub pins: usize,
    /// Filters in clsact qdiscs.
    pub filters: usize,
}

/// Removes what a daemon that was killed left: links end with their process, but pins and clsact filters do not.
pub fn detach(pins: &Path) -> Result<Detached, LiveError> {
    if !pins.is_dir() {
        return Ok(Detached::default());
    }
    let _lock = lock(pins)?;
    let detached = clear(pins)?;
    fs::remove_dir(pins).map_err(|source| failed("remove", pins, source))?;
    Ok(detached)
}

/// Locks the folder itself, which ends with the process, however it ends.
fn lock(path: &Path) -> Result<Flock<File>, LiveError> {
    let folder = File::open(path).map_err(|source| failed("open", path, source))?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == Errno::EWOULDBLOCK {
            LiveError::InUse { path: path.to_owned(), pid: owner(path) }
        } else {
            failed("lock", path, io::Error::from(errno))
        }
    })
}

/// The process that holds the lock, from the kernel's list.
fn owner(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let inode = fs::metadata(path).map(|meta| meta.ino()).unwrap_or(0);
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks
        .lines()
        .filter(|line| line.contains("FLOCK"))
        .find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let file = fields.get(5)?.rsplit(':').next()?;
            (file == inode.to_string()).then(|| fields.get(4).map(ToString::to_string))?
        })
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Removes every pin of the folder, and the filters that it remembers.
fn clear(path: &Path) -> Result<Detached, LiveError> {
    let mut cleared = Detached { pins: 0, filters: clear_filters(&path.join(FILTERS))? };
    for pin in entries(path)? {
        fs::remove_file(&pin).map_err(|source| failed("remove", &pin, source))?;
        cleared.pins += 1;
    }
    Ok(cleared)
}

fn clear_filters(path: &Path) -> Result<usize, LiveError> {
    if !path.is_dir() {
        return Ok(0);
    }
    let mut removed = 0;
    for record in entries(path)? {
        let request = record.file_name().and_then(|name| recorded(name.to_str()?));
        if let Some(AttachRequest { namespace, interface, .. }) = request {
            let remove = || Ok(attach::remove_stale_filters(&interface));
            // A namespace that has gone took its filters with it.
            removed += namespace::within(namespace.as_deref(), remove).unwrap_or(0);
        }
        fs::remove_dir(&record).map_err(|source| failed("remove", &record, source))?;
    }
    fs::remove_dir(path).map_err(|source| failed("remove", path, source))?;
    Ok(removed)
}

fn entries(path: &Path) -> Result<Vec<PathBuf>, LiveError> {
    let unreadable = |source| failed("read", path, source);
    let entries = fs::read_dir(path).map_err(unreadable)?;
    entries.map(|entry| Ok(entry.map_err(unreadable)?.path())).collect()
}

/// Pins live on a BPF file system; systemd mounts one, but containers and small systems may not.
fn ensure_bpf_fs(path: &Path) -> Result<(), LiveError> {
    let mut nearest = path;
    while !nearest.exists() {
        nearest = nearest.parent().unwrap_or_else(|| Path::new("/"));
    }
    let is_bpf_fs = |at: &Path| statfs(at).is_ok_and(|fs| fs.filesystem_type().0 == BPF_FS_MAGIC);
    if is_bpf_fs(nearest) {
        return Ok(());
    }
    let none = None::<&str>;
    let mounted = if path.starts_with(BPF_FS) {
        mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), none).map_err(io::Error::from)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it lies outside of /sys/fs/bpf"))
    };
    mounted.map_err(|source| LiveError::BpfFs { path: path.to_owned(), source })?;
    tracing::info!(path = BPF_FS, "mounted the BPF file system");
    Ok(())
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> LiveError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return LiveError::Privilege { what: format!("{what} `{}`", path.display()), source };
    }
    LiveError::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_comes_back_from_its_record() {
        for text in ["eth0", "eth0.100", "blue/eth0.7", "50%.d/br%2E"] {
            let request: AttachRequest = text.parse().unwrap();
            let name = record(&request);
            assert!(!name.contains(['.', '/']), "{name}");
            assert_eq!(recorded(&name), Some(request));
        }
    }
}
