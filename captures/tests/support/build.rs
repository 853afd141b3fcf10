//! Capture files made by hand, field by field, in either byte order, sound or not.
//! Never uses the encoder under test.

/// Byte order of what is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

impl Order {
    pub(crate) fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    pub(crate) fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    pub(crate) fn u64(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn words(self, words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| self.u32(*word)).collect()
    }

    /// A classic file header.
    pub(crate) fn classic(
        self,
        magic: u32,
        version: (u16, u16),
        snaplen: u32,
        link: u32,
    ) -> Vec<u8> {
        let mut header = self.words(&[magic]);
        header.extend(self.u16(version.0));
        header.extend(self.u16(version.1));
        header.extend(self.words(&[0, 0, snaplen, link]));
        header
    }

    /// A standard record; the lengths are what its header says, in file order.
    pub(crate) fn record(self, time: (u32, u32), lengths: (u32, u32), data: &[u8]) -> Vec<u8> {
        let mut record = self.words(&[time.0, time.1, lengths.0, lengths.1]);
        record.extend(data);
        record
    }

    /// A pcapng block whose body is padded and whose lengths are right.
    pub(crate) fn block(self, block_type: u32, body: &[u8]) -> Vec<u8> {
        let mut padded = body.to_vec();
        padded.resize(body.len().next_multiple_of(4), 0);
        let len = u32::try_from(padded.len() + 12).unwrap();
        self.block_with_lengths(block_type, &padded, len, len)
    }

    pub(crate) fn block_with_lengths(
        self,
        block_type: u32,
        body: &[u8],
        first: u32,
        second: u32,
    ) -> Vec<u8> {
        let mut block = self.words(&[block_type, first]);
        block.extend(body);
        block.extend(self.u32(second));
        block
    }

    pub(crate) fn section(self, version: (u16, u16)) -> Vec<u8> {
        let mut body = self.words(&[0x1a2b_3c4d]);
        body.extend(self.u16(version.0));
        body.extend(self.u16(version.1));
        body.extend([0xff; 8]);
        self.block(0x0a0d_0d0a, &body)
    }

    pub(crate) fn interface(self, link: u16, snaplen: u32, options: &[u8]) -> Vec<u8> {
        let mut body = self.u16(link).to_vec();
        body.extend([0, 0]);
        body.extend(self.u32(snaplen));
        body.extend(options);
        self.block(1, &body)
    }

    pub(crate) fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut option = self.u16(code).to_vec();
        option.extend(self.u16(u16::try_from(value.len()).unwrap()));
        option.extend(value);
        option.resize(option.len().next_multiple_of(4), 0);
        option
    }

    /// The body of an Enhanced Packet Block.
    pub(crate) fn packet_body(
        self,
        interface: u32,
        ticks: u64,
        original_len: u32,
        data: &[u8],
        options: &[u8],
    ) -> Vec<u8> {
        let [high, low] = [(ticks >> 32) as u32, (ticks & 0xffff_ffff) as u32];
        let captured_len = u32::try_from(data.len()).unwrap();
        let mut body = self.words(&[interface, high, low, captured_len, original_len]);
        body.extend(data);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(options);
        body
    }

    /// An Enhanced Packet Block on interface 0 without options.
    pub(crate) fn packet(self, ticks: u64, data: &[u8]) -> Vec<u8> {
        let original_len = u32::try_from(data.len()).unwrap();
        self.block(6, &self.packet_body(0, ticks, original_len, data, &[]))
    }

    pub(crate) fn simple_packet(self, original_len: u32, data: &[u8]) -> Vec<u8> {
        self.block(3, &[&self.u32(original_len), data].concat())
    }
}
