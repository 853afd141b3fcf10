//! Which processor runs what a test does.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread, and the threads and programs it starts from here on, on one processor: the `number`th of
/// those it may run on, in turn. What a veth pair carries is handled where it was sent from, so that frames do not
/// overtake each other, and no two packets of a flow are handled at once.
///
/// # Errors
///
/// The kernel's refusal.
pub fn stay_on_one(number: usize) -> std::io::Result<()> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread)?;
    let allowed: Vec<_> =
        (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let chosen = allowed.get(number % allowed.len().max(1)).ok_or(nix::Error::EINVAL)?;
    let mut one = CpuSet::new();
    one.set(*chosen)?;
    sched_setaffinity(this_thread, &one)?;
    Ok(())
}
