//! A memory file system of the bench's own, where all tools write, and what is in the files. Never outlives its value.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use captures::format::read::PacketReader;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::sender::SOURCE;

/// What the file system may hold, MiB: the longest file, and what linnet leaves free.
const ROOM_MIB: u64 = 4_096;

/// The file system.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Mounts it in a folder of its own among the temporary ones, for this process and those that it starts: with the last of
    /// them it goes, however they end.
    pub fn mount() -> anyhow::Result<Self> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).context("cannot have mounts of its own; needs root")?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("cannot keep its mounts to itself")?;
        let path = env::temp_dir().join(format!("linnet-capture-{}", std::process::id()));
        fs::create_dir(&path).context("cannot make a folder for captures")?;
        let scratch = Self(path);
        let options = format!("size={ROOM_MIB}m,mode=0755");
        let (source, kind) = (Some("linnet-bench"), Some("tmpfs"));
        mount(source, &scratch.0, kind, MsFlags::empty(), Some(options.as_str()))
            .context("cannot mount a file system in memory; needs root")?;
        Ok(scratch)
    }

    /// A folder that every user can look into. There is one at a time.
    pub fn folder(&self) -> anyhow::Result<Folder> {
        let path = self.0.join("trial");
        fs::create_dir(&path).context("cannot make a folder")?;
        let folder = Folder(path);
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the reader of /tmp.
        let _unmounted = umount2(&self.0, MntFlags::MNT_DETACH);
        let _removed = fs::remove_dir(&self.0);
    }
}

/// A folder that ends with this value, and all that is in it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Else the next one cannot be made, and says so.
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// The sender's frames of that length in a capture file.
pub fn frames(path: &Path, length: usize) -> anyhow::Result<u64> {
    let mut reader = PacketReader::open(path)?;
    let mut count = 0;
    while let Some(read) = reader.next_packet()? {
        let is_ours = read.packet.data.get(6..12) == Some(&SOURCE[..])
            && usize::try_from(read.packet.original_len) == Ok(length);
        count += u64::from(is_ours);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use captures::format::pcapng::{PcapngWriter, SectionHeader};
    use captures::{CapturedPacket, InterfaceDescription, LinkType};

    use super::*;

    #[test]
    fn only_the_senders_frames_count() {
        let path = env::temp_dir().join(format!("linnet-frames-{}", std::process::id()));
        let mut writer = PcapngWriter::new(Vec::new(), &SectionHeader::default()).unwrap();
        writer.interface(&InterfaceDescription::new(LinkType::ETHERNET, 0)).unwrap();
        let mut ours = [0; 64];
        ours[6..12].copy_from_slice(&SOURCE);
        for data in [&ours[..], &[0; 64], &ours[..60], &ours] {
            writer.packet(&CapturedPacket::new(1, data)).unwrap();
        }
        fs::write(&path, writer.into_inner()).unwrap();
        let count = frames(&path, 64);
        fs::remove_file(&path).unwrap();
        assert_eq!(count.unwrap(), 2);
    }
}
