//! What a capture wants as bytes. A filter is classic BPF, and is checked here: nothing else gets any further.

use captures::filter::{INSTRUCTIONS_MAX, Instruction};
use datapath::{
    Link,
    layout::{CAPTURE_BYTES_MAX, POINTS_MAX},
};

use super::{Reader, Wire, WireError, Writer};
use crate::live::{
    filters::{Alternative, View},
    stage_config::{ALTERNATIVES_MAX, StageConfig},
};

impl Wire for StageConfig {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u32(self.snaplen);
        writer.option(self.payload_max.as_ref(), |writer, bytes| bytes.put(writer))?;
        writer.u64(self.deadline_ns);
        writer.u64(self.packets_max);
        writer.u64(self.bytes_max);
        writer.option(self.point.as_ref(), |writer, point| point.put(writer))?;
        writer.option(self.filter.as_ref(), |writer, alternatives| {
            writer.list("ways to match", alternatives, ALTERNATIVES_MAX)
        })
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let snaplen = reader.u32()?;
        if snaplen == 0 || snaplen as usize > CAPTURE_BYTES_MAX {
            return Err(WireError::Value("snaplen"));
        }
        Ok(Self {
            snaplen,
            payload_max: reader.option(Reader::u32)?,
            deadline_ns: reader.u64()?,
            packets_max: reader.u64()?,
            bytes_max: reader.u64()?,
            point: reader.option(point)?,
            filter: reader.option(|reader| reader.list("ways to match", ALTERNATIVES_MAX))?,
        })
    }
}

/// An observation point's id; 0 is none.
pub(super) fn point(reader: &mut Reader<'_>) -> Result<u32, WireError> {
    let point = reader.u32()?;
    if (1..POINTS_MAX).contains(&point) { Ok(point) } else { Err(WireError::Value("point")) }
}

impl Wire for Alternative {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u8(self.view as u8);
        writer.u8(self.link as u8);
        writer.list("instructions", &self.instructions, INSTRUCTIONS_MAX)
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let view = match reader.u8()? {
            0 => View::Wire,
            1 => View::Untagged,
            2 => View::Tunneled,
            value => return Err(WireError::Unknown { what: "view", value }),
        };
        let link = match reader.u8()? {
            0 => Link::Ethernet,
            1 => Link::RawIp,
            value => return Err(WireError::Unknown { what: "link", value }),
        };
        let instructions: Vec<_> = reader.list("instructions", INSTRUCTIONS_MAX)?;
        if !StageConfig::is_checked(&instructions) {
            return Err(WireError::Value("filter"));
        }
        Ok(Self { view, link, instructions })
    }
}

impl Wire for Instruction {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u16(self.code);
        writer.u8(self.jt);
        writer.u8(self.jf);
        writer.u32(self.k);
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (code, jt, jf) = (reader.u16()?, reader.u8()?, reader.u8()?);
        Ok(Self { code, jt, jf, k: reader.u32()? })
    }
}
