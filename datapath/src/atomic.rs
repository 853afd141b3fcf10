//! Shared counters and the entry lock: atomic in the kernel, plain on the host, where a table has one owner.
//!
//! Atomics on the bpf target exist only as intrinsics, and a `Relaxed` fetch whose result is used miscompiles
//! (it returns the addend): results are therefore only used with `AcqRel`.

/// How often a packet tries for an entry's lock before it goes on without the analysis: about a microsecond, ten times
/// as long as another CPU holds it unless its virtual machine is put to sleep meanwhile.
#[cfg(target_arch = "bpf")]
pub(crate) const LOCK_TRIES_MAX: usize = 32;

/// Adds to a counter that other CPUs add to as well.
#[inline(always)]
pub(crate) fn add(counter: &mut u64, amount: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the reference is valid and aligned; the result is dropped, so `Relaxed` is sound here.
    unsafe {
        use core::intrinsics::{AtomicOrdering::Relaxed, atomic_xadd};
        atomic_xadd::<u64, u64, { Relaxed }>(counter, amount);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *counter = counter.wrapping_add(amount);
    }
}

/// Adds one to a number that other CPUs add to as well; returns what it was before.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn fetch_increment(number: &mut u32) -> u32 {
    use core::intrinsics::{AtomicOrdering::AcqRel, atomic_xadd};
    // SAFETY: the reference is valid and aligned.
    unsafe { atomic_xadd::<u32, u32, { AcqRel }>(number, 1) }
}

/// Takes the lock word (0 free, 1 held) or gives up after [`LOCK_TRIES_MAX`] tries.
#[inline(always)]
pub(crate) fn try_lock(word: &mut u32) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        use core::intrinsics::{AtomicOrdering::AcqRel, AtomicOrdering::Acquire, atomic_cxchg};
        let mut tries = 0;
        while tries < LOCK_TRIES_MAX {
            // SAFETY: the reference is valid and aligned for the whole call.
            let (_, taken) = unsafe { atomic_cxchg::<u32, { AcqRel }, { Acquire }>(word, 0, 1) };
            if taken {
                return true;
            }
            // Opaque, or LLVM writes the loop out.
            tries = crate::hint::opaque(tries + 1);
        }
        false
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *word = 1;
        true
    }
}

/// Gives the lock word back.
#[inline(always)]
pub(crate) fn unlock(word: &mut u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the reference is valid and aligned; exchange has release ordering for what was written under it.
    unsafe {
        use core::intrinsics::{AtomicOrdering::AcqRel, atomic_xchg};
        let _ = atomic_xchg::<u32, { AcqRel }>(word, 0);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *word = 0;
    }
}
