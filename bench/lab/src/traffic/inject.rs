//! Sends given frames out of an interface of the lab, as they are. Never invents or repairs one:
//! what the caller hands over is on the wire.

use std::io;
use std::time::Duration;

use pnet::datalink::{self, Channel, Config, DataLinkSender};

use super::{Budget, TrafficError};
use crate::clock::{monotonic_ns, nanos};
use crate::namespace::Namespace;

/// Largest frame of a 1500-byte MTU with two VLAN tags.
pub const FRAME_BYTES_MAX: usize = 1522;

/// Sends `frames` one after another, `interval` apart (as fast as possible where it is zero), out
/// of `interface` of `namespace`. Returns how many were sent: all, or the error says why not.
pub fn frames<'a>(
    namespace: &Namespace,
    interface: &str,
    frames: impl IntoIterator<Item = &'a [u8]> + Send,
    interval: Duration,
    budget: &Budget,
) -> Result<u64, TrafficError> {
    namespace.run(|| {
        let failed = |source| TrafficError::Inject { interface: interface.to_owned(), source };
        let mut sender = open(interface).map_err(failed)?;
        let start_ns = monotonic_ns();
        let mut sent = 0_u64;
        for frame in frames {
            let at_ns = start_ns + nanos(interval).saturating_mul(sent);
            budget.check("inject frames")?;
            budget.sleep_until(at_ns, "pace frames")?;
            if frame.len() > FRAME_BYTES_MAX {
                return Err(failed(io::ErrorKind::InvalidInput.into()));
            }
            // None: pnet's own buffer is too small, which the check above rules out.
            sender.send_to(frame, None).unwrap_or(Ok(())).map_err(failed)?;
            sent += 1;
        }
        Ok(sent)
    })?
}

pub(super) fn open(name: &str) -> io::Result<Box<dyn DataLinkSender>> {
    let interfaces = datalink::interfaces();
    let interface = interfaces.iter().find(|interface| interface.name == name);
    let interface = interface.ok_or(io::ErrorKind::NotFound)?;
    match datalink::channel(interface, Config::default())? {
        Channel::Ethernet(sender, _) => Ok(sender),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
