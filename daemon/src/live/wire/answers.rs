//! Answers as bytes, and what is attached.

use datapath::{Link, layout::POINTS_MAX};

use super::{Reader, Wire, WireError, Writer};
use crate::live::{
    chain::{CHAIN_MAX, Chain, ChainLink, KINDS, NAME_MAX},
    notices::{NOTICE_MAX, NOTICES_MAX},
    points::WatchedPoint,
    verb::{Answer, AttachRequest, Attached, AttachedHook, AttachedPoint, Hook, Watching},
};

/// Longest reason for a hook.
const REASON_MAX: usize = 512;

impl Wire for Answer {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        match self {
            Self::RulesSet { generation } => {
                writer.u8(0);
                writer.u64(*generation);
                Ok(())
            }
            Self::Watched(watching) => {
                writer.u8(1);
                watching.put(writer)
            }
            Self::Done => {
                writer.u8(2);
                Ok(())
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            0 => Self::RulesSet { generation: reader.u64()? },
            1 => Self::Watched(Watching::take(reader)?),
            2 => Self::Done,
            value => return Err(WireError::Unknown { what: "answer", value }),
        })
    }
}

impl Wire for Watching {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.list("points", &self.points, POINTS_MAX as usize)?;
        writer.length("notices", self.notices.len(), NOTICES_MAX)?;
        self.notices.iter().try_for_each(|notice| writer.text("notice", notice, NOTICE_MAX))
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let points = reader.list("points", POINTS_MAX as usize)?;
        let mut notices = Vec::new();
        for _ in 0..reader.length("notices", NOTICES_MAX)? {
            notices.push(reader.text("notice", NOTICE_MAX)?);
        }
        Ok(Self { points, notices })
    }
}

impl Wire for WatchedPoint {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        self.point.put(writer)?;
        writer.u64(self.namespace_number);
        writer.u8(u8::from(self.gone));
        self.chains.iter().try_for_each(|chain| chain.put(writer))
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (point, namespace_number) = (AttachedPoint::take(reader)?, reader.u64()?);
        let gone = truth(reader)?;
        let chains = [Chain::take(reader)?, Chain::take(reader)?];
        Ok(Self { point, namespace_number, gone, chains })
    }
}

impl Wire for Chain {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u8(u8::from(self.displaced));
        writer.list("links of a chain", &self.links, CHAIN_MAX)
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let displaced = truth(reader)?;
        Ok(Self { links: reader.list("links of a chain", CHAIN_MAX)?, displaced })
    }
}

impl Wire for ChainLink {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        let kind = KINDS.iter().position(|kind| *kind == self.hook);
        let kind = kind.and_then(|kind| u8::try_from(kind).ok());
        writer.u8(kind.ok_or(WireError::Value("hook of a chain"))?);
        writer.u8(u8::from(self.ours));
        writer.option(self.program_id.as_ref(), |writer, id| id.put(writer))?;
        writer.option(self.name.as_ref(), |writer, name| writer.text("name", name, NAME_MAX))
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = reader.u8()?;
        let hook = KINDS.get(usize::from(kind)).copied();
        let hook = hook.ok_or(WireError::Unknown { what: "hook of a chain", value: kind })?;
        let ours = truth(reader)?;
        let program_id = reader.option(Reader::u32)?;
        let name = reader.option(|reader| reader.text("name", NAME_MAX))?;
        Ok(Self { hook, program_id, name, ours })
    }
}

/// A byte that is 0 or 1.
fn truth(reader: &mut Reader<'_>) -> Result<bool, WireError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(WireError::Unknown { what: "truth", value }),
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
        // What a kernel says may be long.
        let reason = &self.reason[..self.reason.floor_char_boundary(REASON_MAX)];
        writer.text("reason", reason, REASON_MAX)?;
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
