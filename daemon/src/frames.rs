//! `linnet analyze --frames`: what tshark says about each TCP frame of a capture, told as it is read. Keeps streams in
//! memory, never frames.

use std::{io, path::Path};

use captures::format::read::PacketReader;
pub use datapath::frames::Compat;
use datapath::{frames::FrameClasses, tcp::classes};

use crate::{
    analyze::{self, AnalyzeError},
    offline,
};

/// What became of a file whose frames were told.
#[derive(Debug)]
pub struct Told {
    /// Why reading ended before the file did.
    pub damage: Option<String>,
    /// Segments of streams beyond the limit, which were not classified.
    pub refused: u64,
}

/// Why frames could not be told.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// The capture cannot be read.
    #[error(transparent)]
    Analyze(#[from] AnalyzeError),
    /// What was to be told found no taker.
    #[error("cannot write the frames: {0}")]
    Write(#[source] io::Error),
}

/// Reads a file, or standard input, and tells each frame that has classes, by its number from 1.
pub fn tell(
    path: &Path,
    compat: Compat,
    streams_max: usize,
    mut told: impl FnMut(u64, u32) -> io::Result<()>,
) -> Result<Told, FramesError> {
    let input = analyze::open(path)?;
    let mut reader = PacketReader::new(input)
        .map_err(|source| AnalyzeError::Read { path: path.to_owned(), source })?;
    let mut frames = FrameClasses::new(compat, streams_max);
    let mut number = 0;
    let damage = loop {
        match reader.next_packet() {
            Ok(Some(read)) => {
                number += 1;
                let classes = frames.frame(&read.packet.data, &offline::frame(&read));
                if classes != 0 {
                    told(number, classes).map_err(FramesError::Write)?;
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    Ok(Told { damage, refused: frames.refused() })
}

/// The letters of classes, in the order of [`classes::NAMES`].
pub fn letters(found: u32) -> impl Iterator<Item = char> {
    let named = classes::NAMES.into_iter().enumerate();
    named.filter(move |(bit, _)| found & 1 << bit != 0).map(|(_, (_, letter))| letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_letters() {
        let found = classes::ZERO_WINDOW | classes::SPURIOUS_RETRANSMISSION;
        assert_eq!(letters(found).collect::<String>(), "ZS");
        assert_eq!(letters(0).count(), 0);
    }
}
