//! The folder of captures: one pcapng file each, and beside it what the API says about it. Never follows a link, never
//! replaces a capture, and knows no name but those of [`CaptureId`]s.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use super::{
    CaptureId, CaptureView, RequestLimits,
    repair::whole_blocks,
    view::{CaptureState, Ended, LostView, Progress},
};
use crate::flow::view::rfc3339;

/// Why a capture ended that an earlier daemon left behind.
pub const INTERRUPTED: &str = "interrupted";
/// Largest description beside a file.
const DESCRIPTION_MAX: u64 = 64 * 1024;
const FILE_MODE: u32 = 0o640;
const DIR_MODE: u32 = 0o750;

/// The folder.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Makes the folder if there is none, readable to its owner and group alone.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// A new file for a capture.
    pub(super) fn create(&self, id: CaptureId) -> io::Result<File> {
        options().write(true).create_new(true).open(self.capture(id))
    }

    /// Its file, for reading.
    pub(super) fn read(&self, id: CaptureId) -> io::Result<File> {
        options().read(true).open(self.capture(id))
    }

    /// Keeps what the API says about it: whole or not at all.
    pub(super) fn describe(&self, view: &CaptureView) -> io::Result<()> {
        let path = self.description(view.id);
        let new = path.with_extension("json.new");
        // One that a killed daemon left half written.
        remove(&new)?;
        let mut file = options().write(true).create_new(true).open(&new)?;
        file.write_all(&serde_json::to_vec(view)?)?;
        fs::rename(new, path)
    }

    /// Removes a capture; one that is gone already is well gone.
    pub(super) fn remove(&self, id: CaptureId) -> io::Result<()> {
        remove(&self.capture(id))?;
        remove(&self.description(id))
    }

    /// The captures of earlier daemons, the oldest first, each cut to its last whole block. What cannot be read is
    /// logged and left alone.
    pub(super) fn earlier(&self) -> io::Result<Vec<CaptureView>> {
        let mut ids: Vec<CaptureId> = fs::read_dir(&self.dir)?
            .filter_map(|entry| {
                entry.ok()?.file_name().to_str()?.strip_suffix(".pcapng")?.parse().ok()
            })
            .collect();
        ids.sort_unstable();
        let mut views = Vec::with_capacity(ids.len());
        for id in ids {
            match self.adopt(id) {
                Ok(Some(view)) => views.push(view),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%id, %error, "a capture of an earlier run is left out")
                }
            }
        }
        Ok(views)
    }

    /// A capture of an earlier daemon as it is from here on; `None` where there was nothing in it.
    fn adopt(&self, id: CaptureId) -> io::Result<Option<CaptureView>> {
        let file = options().read(true).write(true).open(self.capture(id))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let described = self.described(id);
        if let Some(view) = &described
            && view.state == CaptureState::Finished
            && view.bytes == metadata.len()
        {
            return Ok(described);
        }
        let whole = whole_blocks(&file)?;
        if whole.bytes == 0 {
            self.remove(id)?;
            return Ok(None);
        }
        file.set_len(whole.bytes)?;
        let ended_at = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ended_at = i128::try_from(ended_at.as_nanos()).unwrap_or_default();
        let progress = Progress {
            offered: whole.packets,
            matched: whole.packets,
            written: whole.packets,
            bytes: whole.bytes,
            lost: LostView::default(),
            ended: Some(Ended { reason: INTERRUPTED.into(), at: rfc3339(ended_at), error: None }),
        };
        let view = described.unwrap_or_else(|| undescribed(id)).at(&progress);
        self.describe(&view)?;
        Ok(Some(view))
    }

    /// What an earlier daemon wrote about a capture, if that can be read.
    fn described(&self, id: CaptureId) -> Option<CaptureView> {
        let file = options().read(true).open(self.description(id)).ok()?;
        let mut text = String::new();
        file.take(DESCRIPTION_MAX).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok().filter(|view: &CaptureView| view.id == id)
    }

    fn capture(&self, id: CaptureId) -> PathBuf {
        self.dir.join(format!("{id}.pcapng"))
    }

    fn description(&self, id: CaptureId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

/// A capture of which only the file is left.
fn undescribed(id: CaptureId) -> CaptureView {
    CaptureView {
        id,
        state: CaptureState::Finished,
        stop_reason: None,
        error: None,
        filter: String::new(),
        interface: None,
        snaplen: captures::Snaplen::MAX,
        limits: RequestLimits::default(),
        started_at: rfc3339(i128::from(id.started_ms()) * 1_000_000),
        ended_at: None,
        packets: 0,
        bytes: 0,
        offered: 0,
        matched: 0,
        written: 0,
        lost: LostView::default(),
        lost_before_filter: true,
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE).custom_flags(libc::O_NOFOLLOW);
    options
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use captures::format::pcapng::{SectionHeader, section_header};

    use super::*;

    const NOW_NS: u64 = 1_700_000_000_123_000_000;

    fn section() -> Vec<u8> {
        let mut bytes = Vec::new();
        section_header(&mut bytes, &SectionHeader::default());
        bytes
    }

    #[test]
    fn a_half_written_capture_is_cut_and_called_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = CaptureId::new(NOW_NS);
        let whole = section();
        let mut file = store.create(id).unwrap();
        file.write_all(&whole).unwrap();
        file.write_all(&[6, 0, 0, 0, 200, 0]).unwrap();
        let mut running = undescribed(id);
        running.filter = "tcp".into();
        running.state = CaptureState::Running;
        store.describe(&running).unwrap();

        let found = store.earlier().unwrap();

        assert_eq!(found.len(), 1);
        assert_eq!(found[0].stop_reason.as_deref(), Some(INTERRUPTED));
        assert_eq!((found[0].filter.as_str(), found[0].bytes), ("tcp", whole.len() as u64));
        assert_eq!(store.read(id).unwrap().metadata().unwrap().len(), whole.len() as u64);
        assert_eq!(store.earlier().unwrap(), found, "the second look changes nothing");
    }

    #[test]
    fn a_capture_without_its_description_is_still_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = CaptureId::new(NOW_NS);
        store.create(id).unwrap().write_all(&section()).unwrap();
        let found = store.earlier().unwrap();
        assert_eq!(found[0].started_at, "2023-11-14T22:13:20.123000000Z");
    }

    #[test]
    fn links_and_strangers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), b"precious").unwrap();
        let store = Store::open(&dir.path().join("captures")).unwrap();
        let id = CaptureId::new(NOW_NS);
        symlink(outside.path(), store.capture(id)).unwrap();
        fs::write(dir.path().join("captures/notes.pcapng"), b"mine").unwrap();

        assert!(store.earlier().unwrap().is_empty());
        assert!(store.create(id).is_err() && store.read(id).is_err());
        assert_eq!(fs::read(outside.path()).unwrap(), b"precious");
        assert_eq!(fs::read(dir.path().join("captures/notes.pcapng")).unwrap(), b"mine");
    }

    #[test]
    fn files_are_for_owner_and_group_and_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("a/b")).unwrap();
        let id = CaptureId::new(NOW_NS);
        let mode = store.create(id).unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !FILE_MODE, 0);
        assert_eq!(fs::metadata(&store.dir).unwrap().permissions().mode() & 0o777, DIR_MODE);
        assert_eq!(store.create(id).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
