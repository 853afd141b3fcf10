//! A capture's stream on its way into files: divided by time and converted where that is asked for. Must never keep
//! packets back: what has come is written before more is read.

use std::{io, os::fd::OwnedFd};

use captures::format::{
    Export,
    convert::{ConvertError, Converter},
    split::{Files, Spans, SplitError, Splitter},
};

use super::sink::Sink;

/// What the stream is written through.
#[derive(Debug)]
pub(super) struct Output {
    splitter: Option<Splitter>,
    files: Written,
}

/// The files, each in the format that is asked for.
#[derive(Debug)]
struct Written {
    sink: Sink,
    export: Export,
    /// Of the file that is being written.
    converter: Option<Converter>,
    /// Bytes that were written to any file.
    bytes: u64,
}

impl Output {
    pub(super) fn new(sink: Sink, export: Export, spans: Option<Spans>) -> Self {
        let files = Written { sink, export, converter: converter(export), bytes: 0 };
        Self { splitter: spans.map(Splitter::new), files }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.splitter {
            Some(splitter) => splitter.push(bytes, &mut self.files).map_err(split_failed),
            None => self.files.write(bytes),
        }
    }

    /// Whether the stream ends here between two blocks, where that is known.
    pub(super) fn finish(&self) -> io::Result<()> {
        if let Some(splitter) = &self.splitter {
            splitter.finish().map_err(split_failed)?;
        }
        self.files.finish()
    }

    /// Whether the capture cannot be had in this format, and so nothing was written.
    pub(super) fn refused(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::InvalidInput && self.files.bytes == 0
    }

    /// Removes what was made for a capture that did not come.
    pub(super) fn abandon(&self) {
        self.files.sink.abandon();
    }

    /// What can be asked whether somebody still reads.
    pub(super) fn receiver(&self) -> io::Result<OwnedFd> {
        self.files.sink.receiver()
    }

    /// Files begun.
    pub(super) fn files(&self) -> u64 {
        self.files.sink.files()
    }
}

impl Written {
    fn finish(&self) -> io::Result<()> {
        self.converter.as_ref().map_or(Ok(()), Converter::finish).map_err(io::Error::other)
    }

    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bytes += bytes.len() as u64;
        self.sink.write(bytes)
    }
}

impl Files for Written {
    fn begin(&mut self, start_ns: u64) -> io::Result<()> {
        self.finish()?;
        self.converter = converter(self.export);
        self.sink.next(start_ns)
    }

    fn write(&mut self, blocks: &[u8]) -> io::Result<()> {
        let Some(converter) = &mut self.converter else { return self.give(blocks) };
        let mut out = Vec::new();
        let converted = converter.convert(blocks, &mut out);
        self.give(&out)?;
        converted.map_err(|error| match error {
            ConvertError::LinkTypes(..) => {
                io::Error::new(io::ErrorKind::InvalidInput, format!("{error}: `-i IF`"))
            }
            ConvertError::NoInterface | ConvertError::Stream(_) | ConvertError::Pcap(_) => {
                io::Error::other(error)
            }
        })
    }
}

fn converter(export: Export) -> Option<Converter> {
    match export {
        Export::Pcapng => None,
        Export::Pcap(resolution) => Some(Converter::new(resolution)),
    }
}

fn split_failed(error: SplitError) -> io::Error {
    match error {
        SplitError::Write(error) => error,
        SplitError::Stream(_) | SplitError::Interface { .. } | SplitError::Interfaces => {
            io::Error::other(error)
        }
    }
}
