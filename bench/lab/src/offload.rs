//! Switches the offloads of an interface of the calling thread's namespace by `SIOCETHTOOL`, so
//! that frames look in the kernel as they do on a wire. Never touches an interface it was not
//! given.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::LabError;

/// `SIOCETHTOOL` commands of linux/ethtool.h, in the order in which they must be switched off:
/// segmentation depends on checksums and scatter-gather.
const WIRE_TRUTH: [(&str, u32); 5] = [
    ("tcp segmentation offload", 0x1f),
    ("generic segmentation offload", 0x24),
    ("generic receive offload", ETHTOOL_SGRO),
    ("scatter-gather", 0x19),
    ("transmit checksum offload", 0x17),
];
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Turns off everything that merges, splits late or leaves checksums open.
pub(crate) fn wire_truth(interface: &str) -> Result<(), LabError> {
    let control = control_socket().map_err(|source| refused("offloads", interface, source))?;
    for (feature, command) in WIRE_TRUTH {
        switch_off(&control, interface, command)
            .map_err(|source| refused(feature, interface, source))?;
    }
    Ok(())
}

/// Turns receive merging off again, where someone turned it on.
pub(crate) fn receive_merging_off(interface: &str) -> Result<(), LabError> {
    let feature = "generic receive offload";
    control_socket()
        .and_then(|control| switch_off(&control, interface, ETHTOOL_SGRO))
        .map_err(|source| refused(feature, interface, source))
}

fn refused(feature: &'static str, interface: &str, source: io::Error) -> LabError {
    LabError::Offload { feature, interface: interface.to_owned(), source }
}

fn control_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Inet, SockType::Datagram, flags, None)?)
}

fn switch_off(control: &OwnedFd, interface: &str, command: u32) -> io::Result<()> {
    let mut value = EthtoolValue { command, data: 0 };
    let mut request = libc::ifreq {
        ifr_name: interface_name(interface)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: `request` is a whole ifreq whose data points at an ethtool_value that outlives the
    // call, as these commands expect.
    let answer = unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An interface name as C wants it; names too long for the kernel are refused.
fn interface_name(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut bytes = [0; libc::IFNAMSIZ];
    if name.len() >= bytes.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(bytes)
}
