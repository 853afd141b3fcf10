//! Numbers, texts, options and lists as bytes. A length is checked against its limit before anything is allocated.

/// A message that cannot be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Of another version.
    #[error("version {0} is not known")]
    Version(u8),
    /// A number that stands for nothing.
    #[error("{what} {value} is not known")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u8,
    },
    /// It ends too early.
    #[error("the message ends too early")]
    Short,
    /// It goes on after its end.
    #[error("{0} bytes behind the end of the message")]
    Trailing(usize),
    /// Longer than it may be.
    #[error("{what} of {length} is longer than {max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length.
        length: usize,
        /// Its limit.
        max: usize,
    },
    /// No UTF-8.
    #[error("{0} is no UTF-8")]
    Text(&'static str),
    /// Out of bounds.
    #[error("{0} is out of bounds")]
    Value(&'static str),
    /// Not the number of descriptors that belong to it.
    #[error("{0} descriptors came with the message")]
    Descriptors(usize),
}

/// What has a form in bytes.
pub(in super::super) trait Wire: Sized {
    /// Writes it; an error where it is beyond its limits.
    fn put(&self, writer: &mut Writer) -> Result<(), WireError>;
    /// Reads it, and checks all of it.
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// Bytes of a message that is being written.
#[derive(Debug, Default)]
pub(in super::super) struct Writer(Vec<u8>);

impl Writer {
    pub(in super::super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(in super::super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(in super::super) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(in super::super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(in super::super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(in super::super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(in super::super) fn text(
        &mut self,
        what: &'static str,
        text: &str,
        max: usize,
    ) -> Result<(), WireError> {
        self.length(what, text.len(), max)?;
        self.bytes(text.as_bytes());
        Ok(())
    }

    pub(in super::super) fn length(
        &mut self,
        what: &'static str,
        length: usize,
        max: usize,
    ) -> Result<(), WireError> {
        let too_long = WireError::TooLong { what, length, max };
        if length > max {
            return Err(too_long);
        }
        self.u16(u16::try_from(length).map_err(|_| too_long)?);
        Ok(())
    }

    pub(in super::super) fn option<T>(
        &mut self,
        value: Option<&T>,
        put: impl FnOnce(&mut Self, &T) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        self.u8(u8::from(value.is_some()));
        value.map_or(Ok(()), |value| put(self, value))
    }

    pub(in super::super) fn list<T: Wire>(
        &mut self,
        what: &'static str,
        items: &[T],
        max: usize,
    ) -> Result<(), WireError> {
        self.length(what, items.len(), max)?;
        items.iter().try_for_each(|item| item.put(self))
    }
}

/// What is left of a message that is being read.
#[derive(Debug)]
pub(in super::super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(in super::super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Nothing may be left.
    pub(in super::super) fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }

    pub(in super::super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(in super::super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    pub(in super::super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(in super::super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(in super::super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(in super::super) fn text(
        &mut self,
        what: &'static str,
        max: usize,
    ) -> Result<String, WireError> {
        let length = self.length(what, max)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        let text = std::str::from_utf8(text).map_err(|_| WireError::Text(what))?;
        self.0 = rest;
        Ok(text.to_owned())
    }

    pub(in super::super) fn length(
        &mut self,
        what: &'static str,
        max: usize,
    ) -> Result<usize, WireError> {
        let length = usize::from(self.u16()?);
        if length > max { Err(WireError::TooLong { what, length, max }) } else { Ok(length) }
    }

    pub(in super::super) fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        match self.u8()? {
            0 => Ok(None),
            1 => take(self).map(Some),
            value => Err(WireError::Unknown { what: "presence", value }),
        }
    }

    /// A list; it grows as its items are read, so that a length alone takes no memory.
    pub(in super::super) fn list<T: Wire>(
        &mut self,
        what: &'static str,
        max: usize,
    ) -> Result<Vec<T>, WireError> {
        let length = self.length(what, max)?;
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(T::take(self)?);
        }
        Ok(items)
    }
}

impl Wire for u32 {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u32(*self);
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.u32()
    }
}
