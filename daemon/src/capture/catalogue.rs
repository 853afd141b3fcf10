//! The folder of captures: `ID.pcapng`, and beside each `ID.json` with what is known about it. Never touches a file
//! whose name it did not make, nor a pcapng file without its JSON.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use captures::{PacketReader, ReadError, StopReason};
use nix::fcntl::{Flock, FlockArg};

use super::{CaptureState, CaptureView};
use crate::flow::view::rfc3339;

/// Finished captures that are kept; the oldest goes first.
pub const KEPT_MAX: usize = 50;
/// Bytes of the finished captures that are kept together; the oldest goes first. The latest stays in any case.
pub const KEPT_BYTES_MAX: u64 = 32 << 30;
/// Longest JSON that is read: a filter is at most 2 KiB.
const JSON_BYTES_MAX: u64 = 64 * 1024;
/// What a JSON is called while it is written.
const NEW_SUFFIX: &str = "json.new";
/// Hexadecimal digits of an id: milliseconds since 1970, and a random number.
const ID_DIGITS: (usize, usize) = (13, 8);

/// What this host lets captures have, whoever asks.
#[derive(Clone, Copy, Debug)]
pub struct HostLimits {
    /// Finished captures that are kept.
    pub captures: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// Most bytes of any packet behind its headers; absent for all.
    pub payload_max: Option<u32>,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self { captures: KEPT_MAX, bytes: KEPT_BYTES_MAX, payload_max: None }
    }
}

/// The finished captures.
#[derive(Debug)]
pub(super) struct Catalogue {
    dir: PathBuf,
    /// Of the folder itself: another daemon would take the capture that runs for one that was interrupted.
    _lock: Flock<File>,
    keep: HostLimits,
    /// The oldest first.
    finished: Arc<Vec<CaptureView>>,
    /// Those whose daemon did not end them: to be repaired.
    interrupted: Vec<CaptureView>,
}

/// An id that sorts by time.
pub(super) fn new_id(wall_ns: u64) -> String {
    format!("{:013x}{:08x}", wall_ns / 1_000_000, rand::random::<u32>())
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS.0 + ID_DIGITS.1
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Catalogue {
    /// Makes the folder, or lists what earlier runs left in it. [`ErrorKind::WouldBlock`] where another daemon has it.
    pub(super) fn open(dir: &Path, keep: HostLimits) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        let lock = Flock::lock(File::open(dir)?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| io::Error::from(errno))?;
        let mut catalogue = Self {
            dir: dir.to_owned(),
            _lock: lock,
            keep,
            finished: Arc::default(),
            interrupted: Vec::new(),
        };
        let mut finished = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((id, suffix)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            if suffix == NEW_SUFFIX && is_id(id) {
                gone(fs::remove_file(entry.path()))?;
            }
            if suffix != "json" || !is_id(id) {
                continue;
            }
            let id = id.to_owned();
            let Some(view) = catalogue.read(&id) else { continue };
            // A power failure can leave a finished file shorter than it was.
            let whole = catalogue.path(&id).metadata().is_ok_and(|file| file.len() >= view.bytes);
            if view.state == CaptureState::Finished && whole {
                finished.push(view);
            } else {
                catalogue.interrupted.push(view);
            }
        }
        finished.sort_by(|a, b| a.id.cmp(&b.id));
        catalogue.finished = Arc::new(finished);
        catalogue.make_room();
        Ok(catalogue)
    }

    /// Where the captures are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The finished captures, the oldest first.
    pub(super) fn finished(&self) -> Arc<Vec<CaptureView>> {
        Arc::clone(&self.finished)
    }

    /// A finished capture.
    pub(super) fn get(&self, id: &str) -> Option<&CaptureView> {
        self.finished.iter().find(|view| view.id == id)
    }

    /// The file for a new capture. What is known about it is written first, so that no file is ever without.
    pub(super) fn create(&self, view: &CaptureView) -> io::Result<File> {
        self.save(view)?;
        OpenOptions::new().write(true).create_new(true).mode(0o640).open(self.path(&view.id))
    }

    /// Writes what is known about a capture: whole or not at all where there is room for it twice, and in its place
    /// where there is not.
    pub(super) fn save(&self, view: &CaptureView) -> io::Result<()> {
        let json = serde_json::to_vec(view)?;
        let length = json.len() as u64;
        let (path, new) = (self.json(&view.id), self.dir.join(format!("{}.{NEW_SUFFIX}", view.id)));
        let write = |options: &mut OpenOptions, path: &Path| {
            let mut file = options.write(true).mode(0o640).open(path)?;
            file.write_all(&json).and_then(|()| file.set_len(length))
        };
        let replaced =
            write(OpenOptions::new().create(true), &new).and_then(|()| fs::rename(&new, &path));
        if replaced.is_err() {
            gone(fs::remove_file(&new))?;
            if path.exists() {
                return write(&mut OpenOptions::new(), &path);
            }
        }
        replaced
    }

    /// Lists a capture that has ended, and makes room for it.
    pub(super) fn add(&mut self, view: CaptureView) {
        if let Err(error) = self.save(&view) {
            let id = &view.id;
            tracing::warn!(%error, %id, "what is known about a capture was not kept: after a restart it is scanned");
        }
        let finished = Arc::make_mut(&mut self.finished);
        let place = finished.partition_point(|other| other.id < view.id);
        finished.insert(place, view);
        self.make_room();
    }

    /// Removes a finished capture and its file.
    pub(super) fn remove(&mut self, id: &str) -> io::Result<()> {
        gone(fs::remove_file(self.path(id)))?;
        gone(fs::remove_file(self.json(id)))?;
        Arc::make_mut(&mut self.finished).retain(|view| view.id != id);
        Ok(())
    }

    /// Removes what there is of a capture that did not come about.
    pub(super) fn discard(&self, id: &str) {
        for path in [self.path(id), self.json(id)] {
            if let Err(error) = gone(fs::remove_file(&path)) {
                tracing::warn!(%error, path = %path.display(), "a file was left behind");
            }
        }
    }

    /// Repairs one capture that was interrupted, if there is one: its file is cut behind its last whole block.
    pub(super) fn repair_one(&mut self) {
        let Some(mut view) = self.interrupted.pop() else { return };
        let path = self.path(&view.id);
        match repair(&path) {
            Ok(Repaired { packets, bytes, ended_at }) => {
                tracing::info!(path = %path.display(), packets, bytes, "repaired an interrupted capture");
                view.state = CaptureState::Finished;
                view.stop_reason = Some(StopReason::Interrupted);
                view.ended_at = ended_at;
                view.written = packets;
                view.bytes = bytes;
                view.matched = packets + view.lost.total();
                view.offered = view.offered.max(view.matched);
                self.add(view);
            }
            Err(error) if matches!(&error, ReadError::Open { source, .. } if source.kind() == ErrorKind::NotFound) =>
            {
                tracing::info!(path = %path.display(), "a capture's file was taken away");
                self.discard(&view.id);
            }
            Err(ReadError::NotACapture(_)) => {
                tracing::warn!(path = %path.display(), "removed a capture that had not begun");
                self.discard(&view.id);
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a capture cannot be read and is not listed");
            }
        }
    }

    fn read(&self, id: &str) -> Option<CaptureView> {
        let path = self.json(id);
        let read = || {
            if path.metadata()?.len() > JSON_BYTES_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "it is too long"));
            }
            let view: CaptureView = serde_json::from_slice(&fs::read(&path)?)?;
            if view.id != id {
                return Err(io::Error::new(ErrorKind::InvalidData, "it is of another capture"));
            }
            Ok(view)
        };
        match read() {
            Ok(view) => Some(view),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "left alone what is no capture of linnet's");
                None
            }
        }
    }

    /// Removes the oldest until what is kept is within its limits.
    fn make_room(&mut self) {
        let finished = Arc::make_mut(&mut self.finished);
        let mut removed = Vec::new();
        while finished.len() > self.keep.captures
            || finished.len() > 1
                && finished.iter().map(|view| view.bytes).sum::<u64>() > self.keep.bytes
        {
            removed.push(finished.remove(0).id);
        }
        for id in removed {
            tracing::info!(%id, "removed the oldest capture to make room");
            self.discard(&id);
        }
    }

    fn json(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Ids are made here, or looked up before they reach a path.
    pub(super) fn path(&self, id: &str) -> PathBuf {
        path(&self.dir, id)
    }
}

/// The file of a capture in this folder.
pub(super) fn path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.pcapng"))
}

/// What a scan of a file found.
struct Repaired {
    packets: u64,
    bytes: u64,
    /// When the file was last written.
    ended_at: Option<String>,
}

/// Reads a file to its last whole block, and cuts it there.
fn repair(path: &Path) -> Result<Repaired, ReadError> {
    let failed = |packets_read| move |source| ReadError::Io { packets_read, source };
    let mut reader = PacketReader::open(path)?;
    let mut packets = 0;
    let cut = loop {
        match reader.next_packet() {
            Ok(Some(_)) => packets += 1,
            Ok(None) => break None,
            Err(ReadError::Damaged { offset, .. }) => break Some(offset),
            Err(error) => return Err(error),
        }
    };
    let file = OpenOptions::new().write(true).open(path).map_err(failed(packets))?;
    let before = file.metadata().map_err(failed(packets))?;
    if let Some(bytes) = cut {
        file.set_len(bytes).map_err(failed(packets))?;
    }
    let written = before.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let ended_at = written.and_then(|time| i128::try_from(time.as_nanos()).ok()).map(rfc3339);
    Ok(Repaired { packets, bytes: cut.unwrap_or(before.len()), ended_at })
}

/// Removing what is gone already is well.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_of_one_daemon_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Catalogue::open(folder.path(), HostLimits::default()).unwrap();
        let second = Catalogue::open(folder.path(), HostLimits::default());
        assert_eq!(second.unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(first);
        assert!(Catalogue::open(folder.path(), HostLimits::default()).is_ok());
    }
}
