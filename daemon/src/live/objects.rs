//! The kernel programs as built into this binary, or why they are not.

use super::LiveError;

mod built {
    //! Written by the build script.
    include!(concat!(env!("OUT_DIR"), "/objects.rs"));
}

/// One of the two objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// The XDP door.
    Xdp,
    /// The TC door.
    Tc,
}

impl Object {
    /// As in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }

    /// The ELF file.
    pub fn bytes(self) -> Result<&'static [u8], LiveError> {
        let object = match self {
            Self::Xdp => built::XDP_OBJECT,
            Self::Tc => built::TC_OBJECT,
        };
        object.ok_or(LiveError::NotBuilt(built::NOT_BUILT_REASON))
    }
}

/// Why the programs are not in this binary; `None` where they are.
#[must_use]
pub fn not_built_reason() -> Option<&'static str> {
    built::TC_OBJECT.is_none().then_some(built::NOT_BUILT_REASON)
}
