//! The reader and tshark see the same packets, times and lengths in every file of the corpus.
//! Never judges a file by its name: tshark's answer is the truth, also for damaged ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop there")]

mod support;

use std::path::Path;

use captures::{LinkType, PacketReader, ReadError};

/// One frame, by what both sides can say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    time_ns: Option<u64>,
    original_len: u32,
    captured_len: u32,
}

/// Link types whose packets begin with a pseudo-header that tshark takes off before it counts:
/// SunATM, MTP2, IrDA, LAPD, ERF, Bluetooth, PPP with direction, USB and others.
fn has_pseudo_header(link_type: LinkType) -> bool {
    matches!(
        link_type.0,
        123 | 139 | 144 | 177 | 186 | 189 | 192 | 197 | 201 | 204 | 220 | 245 | 254 | 259 | 261
    )
}

struct Ours {
    frames: Vec<Frame>,
    error: Option<ReadError>,
    pseudo_headers: bool,
}

fn ours(path: &Path) -> Ours {
    let mut ours = Ours { frames: Vec::new(), error: None, pseudo_headers: false };
    let mut reader = match PacketReader::open(path) {
        Ok(reader) => reader,
        Err(error) => {
            ours.error = Some(error);
            return ours;
        }
    };
    loop {
        match reader.next_packet() {
            Ok(Some(read)) => {
                ours.pseudo_headers |= has_pseudo_header(read.link_type);
                ours.frames.push(Frame {
                    time_ns: Some(read.packet.time_ns),
                    original_len: read.packet.original_len,
                    captured_len: read.packet.captured_len(),
                });
            }
            Ok(None) => return ours,
            Err(error) => ours.error = Some(error),
        }
    }
}

struct Theirs {
    frames: Vec<Frame>,
    complaint: Option<String>,
}

fn theirs(path: &Path) -> Theirs {
    let mut arguments = vec!["-n", "-r", support::text(path), "-T", "fields"];
    for field in ["frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_id"] {
        arguments.extend(["-e", field]);
    }
    let output = support::run("tshark", &arguments);
    let sections = path.extension().is_some_and(|extension| extension == "pcapng");
    let frames = String::from_utf8_lossy(&output.stdout)
        .lines()
        // In pcapng, frames without an interface are custom blocks and the like, not packets.
        .filter(|line| !sections || !line.ends_with('\t'))
        .map(frame)
        .collect();
    let complaint = support::complaints(&output);
    Theirs { frames, complaint: Some(complaint).filter(|text| !text.is_empty()) }
}

fn frame(line: &str) -> Frame {
    let columns: Vec<&str> = line.split('\t').collect();
    let [time, original_len, captured_len, _] = columns[..] else {
        panic!("unexpected line {line}")
    };
    Frame {
        time_ns: time_ns(time),
        original_len: original_len.parse().unwrap(),
        captured_len: captured_len.parse().unwrap(),
    }
}

/// Seconds and nanoseconds, where the nanoseconds may exceed a second in odd files; `None` where
/// the frame has no time or one before 1970.
fn time_ns(text: &str) -> Option<u64> {
    let (seconds, nanos) = text.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos.parse().ok()?))
}

#[test]
fn every_corpus_file_has_tsharks_packets_times_and_lengths() {
    let Some(files) = support::corpus() else { return };
    if !support::has_tool("tshark") {
        return;
    }
    let mut differences = Vec::new();
    let (mut packets, mut damaged) = (0, 0);
    for path in &files {
        let (ours, theirs) = (ours(path), theirs(path));
        packets += ours.frames.len();
        damaged += usize::from(ours.error.is_some());
        if let Some(difference) = difference(&ours, &theirs) {
            differences.push(format!("{}: {difference}", path.display()));
        }
    }
    support::note(&format!(
        "{} files, {packets} packets, {damaged} damaged or refused",
        files.len()
    ));
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

fn difference(ours: &Ours, theirs: &Theirs) -> Option<String> {
    let complaint = theirs.complaint.as_deref().unwrap_or_default();
    if complaint.contains("unknown or unsupported") {
        // A link type that tshark cannot name, which ends its reading and not ours.
        return None;
    }
    if ours.frames.len() != theirs.frames.len() {
        return Some(format!(
            "{} packets here ({:?}), {} there ({:?})",
            ours.frames.len(),
            ours.error.as_ref().map(ToString::to_string),
            theirs.frames.len(),
            theirs.complaint,
        ));
    }
    if ours.error.is_some() != theirs.complaint.is_some() {
        return Some(format!("{:?} here, {:?} there", ours.error, theirs.complaint));
    }
    ours.frames.iter().zip(&theirs.frames).enumerate().find_map(|(index, (ours_frame, frame))| {
        let same_time = frame.time_ns.is_none() || ours_frame.time_ns == frame.time_ns;
        let same_lengths = (ours_frame.original_len, ours_frame.captured_len)
            == (frame.original_len, frame.captured_len);
        let same = same_time && (same_lengths || ours.pseudo_headers);
        (!same).then(|| format!("frame {}: {ours_frame:?} here, {frame:?} there", index + 1))
    })
}
