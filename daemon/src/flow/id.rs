//! `FlowId`: the stable name of one flow instance. Never made of wall time, so that a clock step renames nothing.

use std::{fmt, str::FromStr};

use datapath::FlowKey;
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

/// Crockford's base32 alphabet: no I, L, O or U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a rendered id.
pub const FLOW_ID_LEN: usize = 26;

/// 128 bits that name one flow instance: its key and when, on this boot or in this file, it was first seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(u128);

/// Why a text is no flow id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseFlowIdError {
    /// Wrong number of characters.
    #[error("a flow id has 26 characters, this has {0}; copy it from the `id` field of a flow")]
    Length(usize),
    /// A character outside of the alphabet, or a value beyond 128 bits.
    #[error("`{0}` at position {1} cannot be part of a flow id; ids use Crockford's base32")]
    Character(char, usize),
}

/// What makes ids of one origin differ from those of another: the boot id, or the identity of a file.
#[derive(Clone, Debug)]
pub struct FlowIdSource(Sha256);

impl FlowIdSource {
    /// Ids of flows that this origin saw.
    #[must_use]
    pub fn new(origin: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(origin))
    }

    /// The id of the flow of `key` first seen at `instance`: monotonic ns live, first frame number offline.
    #[must_use]
    pub fn id(&self, key: &FlowKey, instance: u64) -> FlowId {
        let mut hash = self.0.clone();
        hash.update(key.as_bytes());
        hash.update(instance.to_be_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        FlowId(u128::from_be_bytes(id))
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for index in (0..FLOW_ID_LEN).rev() {
            let [five, ..] = ((self.0 >> (5 * index)) & 31).to_le_bytes();
            write!(f, "{}", char::from(ALPHABET[usize::from(five)]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowId({self})")
    }
}

impl FromStr for FlowId {
    type Err = ParseFlowIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().count() != FLOW_ID_LEN {
            return Err(ParseFlowIdError::Length(text.chars().count()));
        }
        let mut id: u128 = 0;
        for (position, character) in text.chars().enumerate() {
            let bad = ParseFlowIdError::Character(character, position + 1);
            let upper = character.to_ascii_uppercase();
            let value = ALPHABET.iter().position(|a| char::from(*a) == upper).ok_or(bad)?;
            if position == 0 && value > 7 {
                return Err(bad);
            }
            id = id << 5 | value as u128;
        }
        Ok(Self(id))
    }
}

impl serde::Serialize for FlowId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_a_round_trip() {
        let source = FlowIdSource::new(b"boot");
        for instance in 0..100 {
            let id = source.id(&FlowKey::default(), instance);
            let text = id.to_string();
            assert_eq!(text.len(), FLOW_ID_LEN);
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(text.to_lowercase().parse(), Ok(id));
        }
    }

    #[test]
    fn ids_differ_by_origin_and_instance() {
        let key = FlowKey::default();
        let (a, b) = (FlowIdSource::new(b"a"), FlowIdSource::new(b"b"));
        assert_ne!(a.id(&key, 1), b.id(&key, 1));
        assert_ne!(a.id(&key, 1), a.id(&key, 2));
    }

    #[test]
    fn what_is_no_id_says_why() {
        assert_eq!("abc".parse::<FlowId>(), Err(ParseFlowIdError::Length(3)));
        let bad = "0123456789ABCDEFGHJKMNPQU0";
        assert_eq!(bad.parse::<FlowId>(), Err(ParseFlowIdError::Character('U', 25)));
        let beyond = "Z0000000000000000000000000";
        assert_eq!(beyond.parse::<FlowId>(), Err(ParseFlowIdError::Character('Z', 1)));
    }
}
