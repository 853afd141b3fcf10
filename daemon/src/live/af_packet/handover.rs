//! What the attacher hands to a daemon that reads sockets: they, the address for HTTP, and a note on what they are. One
//! message, before any verb. The sockets outlive a daemon, and with them the packets that wait.

use std::{
    fs::File,
    io::{self, Write as _},
    mem::MaybeUninit,
    net::TcpListener,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use datapath::Link;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::{Opened, PacketInterface, PacketSocket};
use crate::live::{
    LiveError, Server,
    handover::{memory, read_text, seal},
    wire::{self, MESSAGE_MAX, WireError},
};

/// Most descriptors that the kernel takes at once (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;
/// With the note and the listener.
const OTHERS: usize = 2;

/// What the sockets are, in their order.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The text of the configuration file.
    config: String,
    why: String,
    interfaces: Vec<Row>,
}

/// A [`PacketInterface`].
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    namespace: Option<String>,
    ifindex: u32,
    link: String,
    ways: [bool; 2],
}

/// What is handed over, whichever daemon it is for.
#[derive(Debug)]
pub struct PacketEstate {
    note: File,
    sockets: Vec<OwnedFd>,
}

/// What a daemon starts with.
#[derive(Debug)]
pub struct PacketHandover {
    /// The text of the configuration file, as it was when the attacher started.
    pub config: String,
    /// Why this is not eBPF.
    pub why: String,
    /// Where HTTP is served.
    pub listener: TcpListener,
    /// What is read.
    pub opened: Vec<Opened>,
}

impl PacketEstate {
    /// Of what was opened, and why.
    pub fn new(config: &str, why: &str, opened: Vec<Opened>) -> Result<Self, LiveError> {
        let failed = |source| LiveError::File { what: "make", path: "memory".into(), source };
        let (config, why) = (config.to_owned(), why.to_owned());
        let (interfaces, sockets) = opened.into_iter().map(apart).unzip();
        let text = serde_json::to_string(&Note { config, why, interfaces });
        let text = text.map_err(|error| failed(error.into()))?;
        let mut note = memory("linnet-sockets").map_err(failed)?;
        note.write_all(text.as_bytes()).map_err(failed)?;
        // No daemon may have written what the next one reads.
        seal(&note).map_err(failed)?;
        Ok(Self { note, sockets })
    }

    /// Sends it as the first message to a daemon, with the address for HTTP.
    pub fn hand_over(&self, to: &Server, listener: &TcpListener) -> Result<(), LiveError> {
        let message = wire::message(0, |writer| {
            writer.u32(u32::try_from(self.sockets.len()).unwrap_or(u32::MAX));
            Ok(())
        })?;
        let mut descriptors = vec![self.note.as_fd(), listener.as_fd()];
        descriptors.extend(self.sockets.iter().map(OwnedFd::as_fd));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        along.push(SendAncillaryMessage::ScmRights(&descriptors));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = sendmsg(to, &[io::IoSlice::new(&message)], &mut along, flags);
        sent.map(drop).map_err(|errno| LiveError::Attacher(errno.into()))
    }
}

impl PacketHandover {
    /// Waits for it on the socket that this daemon was started with.
    pub fn receive(socket: BorrowedFd<'_>) -> Result<Self, LiveError> {
        let mut message = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let mut into = [io::IoSliceMut::new(&mut message)];
        let received = recvmsg(socket, &mut into, &mut along, RecvFlags::CMSG_CLOEXEC)
            .map_err(|errno| LiveError::Attacher(errno.into()))?;
        let (_, count) = wire::read(&message[..received.bytes], |reader| reader.u32());
        let count = usize::try_from(count?).unwrap_or(usize::MAX);
        let mut descriptors = Vec::new();
        for sent in along.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = sent {
                descriptors.extend(sent);
            }
        }
        let sent = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let (Some(note), Some(listener)) = (descriptors.next(), descriptors.next()) else {
            return Err(WireError::Descriptors(sent).into());
        };
        let failed = |source| LiveError::File { what: "read", path: "memory".into(), source };
        let text = read_text(note.into()).map_err(failed)?;
        let note: Note = serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
        if sent != count.saturating_add(OTHERS) || note.interfaces.len() != count {
            return Err(WireError::Descriptors(sent).into());
        }
        let opened = note.interfaces.into_iter().zip(descriptors).map(together).collect();
        let Note { config, why, .. } = Note { interfaces: Vec::new(), ..note };
        Ok(Self { config, why, listener: listener.into(), opened })
    }
}

fn apart(Opened { interface, socket }: Opened) -> (Row, OwnedFd) {
    let PacketInterface { name, namespace, ifindex, link, ways } = interface;
    let link = link.name().to_owned();
    (Row { name, namespace, ifindex, link, ways }, socket.into())
}

fn together((row, socket): (Row, OwnedFd)) -> Opened {
    let Row { name, namespace, ifindex, link, ways } = row;
    let known = [Link::Ethernet, Link::RawIp].into_iter().find(|known| known.name() == link);
    let link = known.unwrap_or(Link::Unsupported);
    let interface = PacketInterface { name, namespace, ifindex, link, ways };
    Opened { interface, socket: PacketSocket::from(socket) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::channel;

    #[test]
    fn what_is_handed_over_arrives_as_it_was() {
        let interface = PacketInterface {
            name: "blue/tun0".into(),
            namespace: Some("blue".into()),
            ifindex: 7,
            link: Link::RawIp,
            ways: [true, false],
        };
        // Any descriptor will do.
        let socket = PacketSocket::from(OwnedFd::from(memory("test").unwrap()));
        let opened = vec![Opened { interface: interface.clone(), socket }];
        let estate = PacketEstate::new("schema = 1", "because", opened).unwrap();
        let (server, theirs) = channel().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The next daemon gets the same.
        for _ in 0..2 {
            estate.hand_over(&server, &listener).unwrap();
            let got = PacketHandover::receive(theirs.as_fd()).unwrap();
            assert_eq!((&*got.config, &*got.why), ("schema = 1", "because"));
            assert_eq!(got.listener.local_addr().unwrap(), listener.local_addr().unwrap());
            assert_eq!(got.opened.len(), 1);
            assert_eq!(got.opened[0].interface, interface);
        }
    }
}
