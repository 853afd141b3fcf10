//! Whether what linnet watches is still there, and what there is to watch. Needs no privilege in the own namespace.

use super::{AttachRequest, AttachedPoint, namespace};

/// Whether the interface still has the name and index that it had when linnet was attached.
#[must_use]
pub fn is_present(point: &AttachedPoint) -> bool {
    let request = &point.request;
    let look = || namespace::device(&request.interface);
    namespace::within(request.namespace.as_deref(), look)
        .is_ok_and(|device| device.ifindex == point.attached.ifindex)
}

/// Every interface of this namespace that is up, but for loopback: what is watched when nothing is named.
#[must_use]
pub fn default_requests() -> Vec<AttachRequest> {
    pnet::datalink::interfaces()
        .into_iter()
        .filter(|interface| interface.is_up() && !interface.is_loopback())
        .filter_map(|interface| interface.name.parse().ok())
        .collect()
}
