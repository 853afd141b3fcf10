//! What attacher and daemon say to each other, as bytes: a closed set of messages, each with its version, every text
//! and list with its limit, and nothing behind its end. Reading one changes nothing and allocates no more than it holds.
//!
//! A request is `version, number, verb`; a response is `version, number, answer`. Numbers are little-endian.

mod answers;
mod codec;
mod rules;
mod stage;
mod verbs;

pub use codec::WireError;
pub(super) use codec::{Reader, Wire, Writer};

use super::verb::{Answer, Verb};

/// Version of all messages. Both processes are the same program; another one was started by mistake.
pub const VERSION: u8 = 2;
/// Longest message.
pub const MESSAGE_MAX: usize = 160 * 1024;
/// Longest text of a refusal; what is beyond is cut.
const REFUSAL_MAX: usize = 4 * 1024;

/// What kind of failure a refusal is, as far as the daemon acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// Of any other kind.
    Other,
    /// A privilege is missing.
    Privilege,
    /// Only the interface that was asked for is concerned.
    OneInterface,
}

/// A failure of the attacher, as the daemon is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of failure.
    pub kind: RefusalKind,
    /// The rule at fault, by its place in the list.
    pub rule: Option<u32>,
    /// The sentence to show.
    pub message: String,
}

/// What the attacher says to a verb.
pub type Outcome = Result<Answer, Refusal>;

/// A request as bytes.
pub fn request(number: u32, verb: &Verb) -> Result<Vec<u8>, WireError> {
    message(number, |writer| verb.put(writer))
}

/// A response as bytes.
pub fn response(number: u32, outcome: &Outcome) -> Result<Vec<u8>, WireError> {
    message(number, |writer| match outcome {
        Ok(answer) => {
            writer.u8(0);
            answer.put(writer)
        }
        Err(refusal) => {
            writer.u8(1);
            refusal.put(writer)
        }
    })
}

/// A request from bytes: its number, and the verb if it can be read as a whole.
pub fn read_request(bytes: &[u8]) -> (u32, Result<Verb, WireError>) {
    read(bytes, Verb::take)
}

/// A response from bytes.
pub fn read_response(bytes: &[u8]) -> (u32, Result<Outcome, WireError>) {
    read(bytes, |reader| match reader.u8()? {
        0 => Answer::take(reader).map(Ok),
        1 => Refusal::take(reader).map(Err),
        value => Err(WireError::Unknown { what: "outcome", value }),
    })
}

/// A message of one kind that is no request and no response.
pub(super) fn message(
    number: u32,
    body: impl FnOnce(&mut Writer) -> Result<(), WireError>,
) -> Result<Vec<u8>, WireError> {
    let mut writer = Writer::default();
    writer.u8(VERSION);
    writer.u32(number);
    body(&mut writer)?;
    let bytes = writer.into_bytes();
    if bytes.len() > MESSAGE_MAX {
        return Err(WireError::TooLong { what: "message", length: bytes.len(), max: MESSAGE_MAX });
    }
    Ok(bytes)
}

/// The other way round. The number is 0 where there is none.
pub(super) fn read<T>(
    bytes: &[u8],
    body: impl FnOnce(&mut Reader<'_>) -> Result<T, WireError>,
) -> (u32, Result<T, WireError>) {
    let mut reader = Reader::new(bytes);
    let mut number = 0;
    let whole = || {
        if bytes.len() > MESSAGE_MAX {
            let length = bytes.len();
            return Err(WireError::TooLong { what: "message", length, max: MESSAGE_MAX });
        }
        match reader.u8()? {
            VERSION => {}
            version => return Err(WireError::Version(version)),
        }
        number = reader.u32()?;
        let value = body(&mut reader)?;
        reader.end().map(|()| value)
    };
    let value = whole();
    (number, value)
}

impl Wire for Refusal {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u8(match self.kind {
            RefusalKind::Other => 0,
            RefusalKind::Privilege => 1,
            RefusalKind::OneInterface => 2,
        });
        writer.option(self.rule.as_ref(), |writer, rule| {
            writer.u32(*rule);
            Ok(())
        })?;
        let mut end = self.message.len().min(REFUSAL_MAX);
        while !self.message.is_char_boundary(end) {
            end -= 1;
        }
        writer.text("refusal", &self.message[..end], REFUSAL_MAX)
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = match reader.u8()? {
            0 => RefusalKind::Other,
            1 => RefusalKind::Privilege,
            2 => RefusalKind::OneInterface,
            value => return Err(WireError::Unknown { what: "kind of refusal", value }),
        };
        let rule = reader.option(Reader::u32)?;
        Ok(Self { kind, rule, message: reader.text("refusal", REFUSAL_MAX)? })
    }
}
