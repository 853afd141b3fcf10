//! Answers as bytes, and what is attached.

use datapath::{Link, layout::POINTS_MAX};

use super::{Reader, Wire, WireError, Writer};
use crate::live::verb::{Answer, AttachRequest, Attached, AttachedHook, AttachedPoint, Hook};

/// Longest reason for a hook.
const REASON_MAX: usize = 512;

impl Wire for Answer {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        match self {
            Self::Attached(attached) => {
                writer.u8(0);
                attached.put(writer)
            }
            Self::RulesSet { generation } => {
                writer.u8(1);
                writer.u64(*generation);
                Ok(())
            }
            Self::Present(points) => {
                writer.u8(2);
                writer.list("points", points, POINTS_MAX as usize)
            }
            Self::Done => {
                writer.u8(3);
                Ok(())
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            0 => Self::Attached(Attached::take(reader)?),
            1 => Self::RulesSet { generation: reader.u64()? },
            2 => Self::Present(reader.list("points", POINTS_MAX as usize)?),
            3 => Self::Done,
            value => return Err(WireError::Unknown { what: "answer", value }),
        })
    }
}

impl Wire for AttachedPoint {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        self.request.put(writer)?;
        self.attached.put(writer)
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { request: AttachRequest::take(reader)?, attached: Attached::take(reader)? })
    }
}

impl Wire for Attached {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u32(self.point);
        writer.u32(self.ifindex);
        writer.u8(self.link as u8);
        for hook in [&self.ingress, &self.egress] {
            writer.option(hook.as_ref(), |writer, hook| hook.put(writer))?;
        }
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        const LINKS: [Link; 3] = [Link::Ethernet, Link::RawIp, Link::Unsupported];
        let (point, ifindex, link) = (reader.u32()?, reader.u32()?, reader.u8()?);
        let known = LINKS.into_iter().find(|known| *known as u8 == link);
        Ok(Self {
            point,
            ifindex,
            link: known.ok_or(WireError::Unknown { what: "link", value: link })?,
            ingress: reader.option(AttachedHook::take)?,
            egress: reader.option(AttachedHook::take)?,
        })
    }
}

impl Wire for AttachedHook {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u8(match self.hook {
            Hook::Xdp => 0,
            Hook::XdpGeneric => 1,
            Hook::Tcx => 2,
            Hook::Clsact => 3,
        });
        writer.text("reason", &self.reason, REASON_MAX)?;
        writer.option(self.program_id.as_ref(), |writer, id| id.put(writer))
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let hook = match reader.u8()? {
            0 => Hook::Xdp,
            1 => Hook::XdpGeneric,
            2 => Hook::Tcx,
            3 => Hook::Clsact,
            value => return Err(WireError::Unknown { what: "hook", value }),
        };
        let reason = reader.text("reason", REASON_MAX)?;
        Ok(Self { hook, reason, program_id: reader.option(Reader::u32)? })
    }
}
