//! `CaptureId`: a name that sorts by time and that nobody can turn into a path. Never made from what a client sends.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Crockford's base32 alphabet: no I, L, O or U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a rendered id.
pub const CAPTURE_ID_LEN: usize = 26;
/// Random bits below the 48 of the time.
const RANDOM_BITS: u32 = 80;

/// 128 bits as a ULID has them: milliseconds since 1970, then random bits.
///
/// Invariant: its text is 26 characters of Crockford's base32, so that it is safe in file names and headers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaptureId(u128);

/// A text that is no capture id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a capture id has 26 characters of Crockford's base32; copy it from the `id` field of a capture"
)]
pub struct ParseCaptureIdError;

impl CaptureId {
    /// A new id for a capture that starts at `wall_ns` (Unix ns).
    #[must_use]
    pub fn new(wall_ns: u64) -> Self {
        let random = rand::random::<u128>() & ((1 << RANDOM_BITS) - 1);
        Self(u128::from(wall_ns / 1_000_000) << RANDOM_BITS | random)
    }

    /// When it started, ms since 1970.
    #[must_use]
    pub fn started_ms(self) -> u64 {
        u64::try_from(self.0 >> RANDOM_BITS).expect("48 bits are left")
    }
}

impl fmt::Display for CaptureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for index in (0..CAPTURE_ID_LEN).rev() {
            let five = usize::try_from((self.0 >> (5 * index)) & 31).expect("five bits fit");
            fmt::Write::write_char(f, char::from(ALPHABET[five]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for CaptureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaptureId({self})")
    }
}

impl FromStr for CaptureId {
    type Err = ParseCaptureIdError;

    /// Takes the text exactly as it is rendered: one id has one spelling, and one file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != CAPTURE_ID_LEN {
            return Err(ParseCaptureIdError);
        }
        let mut id: u128 = 0;
        for (position, byte) in text.bytes().enumerate() {
            let value = ALPHABET.iter().position(|known| *known == byte);
            let value = value.ok_or(ParseCaptureIdError)?;
            if position == 0 && value > 7 {
                return Err(ParseCaptureIdError);
            }
            id = id << 5 | value as u128;
        }
        Ok(Self(id))
    }
}

impl Serialize for CaptureId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CaptureId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_survive_a_round_trip() {
        let early = CaptureId::new(1_700_000_000_000_000_000);
        let late = CaptureId::new(1_700_000_000_002_000_000);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse(), Ok(early));
    }

    #[test]
    fn nothing_but_an_id_is_taken() {
        let id = CaptureId::new(1_700_000_000_000_000_000).to_string();
        let wrong = [
            "".to_owned(),
            "../../../../../../etc/passw".to_owned(),
            id.to_lowercase(),
            format!("Z{}", &id[1..]),
            format!("{}/", &id[..25]),
            format!("{id}\0"),
            "é".repeat(13),
        ];
        for text in wrong {
            assert_eq!(text.parse::<CaptureId>(), Err(ParseCaptureIdError), "{text}");
        }
    }
}
