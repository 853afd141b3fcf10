//! The AF_PACKET source, for hosts where the kernel refuses eBPF: sockets that the attacher opens, and that the daemon reads
//! without a privilege. Must never be the source of an interface that programs watch too: then packets would count twice.
//!
//! What it sees differs from what the hooks see in two ways. Egress is seen behind the qdisc rather than before it, so that
//! what a qdisc drops is not seen. And whether a packet comes out of a socket of this host is not known, so that verdicts on
//! what is sent are those of an observer on the way.
//!
//! pnet lists the interfaces. Its channels read with `recvfrom` and keep their descriptors to themselves: no auxiliary data,
//! which holds the tag that the kernel has taken out of a frame, no time stamps, no segment sizes of super-packets, no count
//! of what was lost, and nothing that could be handed to another process. So the sockets are opened and read here.

mod handover;
mod opener;
mod socket;

pub use handover::{PacketEstate, PacketHandover};
pub use opener::{Opened, PacketInterface, no_ebpf, open, refuses_ebpf};
pub use socket::{Packet, PacketBuffer, PacketSocket, Received, Standing};
