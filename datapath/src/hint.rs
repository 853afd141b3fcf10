//! Two hints to compiler and verifier, and nothing else: both are the identity function. On the host they vanish.
//!
//! The verifier walks every path with everything it knows about each register. Without these hints the paths of
//! the whole pipeline multiply beyond its budget of one million instructions; with them it visits about ten
//! thousand.

/// A value that the optimiser knows nothing about, so that a mask or a comparison after it stays in the program
/// for the verifier to see.
#[inline(always)]
#[must_use]
pub fn opaque(value: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: copies a register onto itself; touches neither memory nor stack.
        // An instruction must be emitted: an empty template yields line info that the kernel refuses.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// Makes the compiler read everything behind `reference` again, so that the verifier holds fresh unknown values
/// there and can merge the paths that lead here.
#[inline(always)]
pub fn forget<T>(reference: &mut T) -> &mut T {
    #[cfg(target_arch = "bpf")]
    {
        let mut address = core::ptr::from_mut(reference) as usize;
        // SAFETY: copies a register onto itself and is declared to touch memory (no `nomem`), which is what
        // discards the compiler's knowledge; the address stays that of the exclusive reference passed in.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) address, options(nostack, preserves_flags));
            &mut *(address as *mut T)
        }
    }
    #[cfg(not(target_arch = "bpf"))]
    reference
}
