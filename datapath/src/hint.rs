//! Hints to compiler and verifier, and nothing else: on the host they vanish.
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

/// Stores a value by a store of its own. LLVM would gather neighbouring ones into a call of `memset`, which on this
/// target is a loop over bytes: 20 ns for each packet, and as many steps for the verifier.
#[inline(always)]
pub fn store<T: Copy>(slot: &mut T, value: T) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the reference is valid, aligned and exclusive.
    unsafe {
        core::ptr::write_volatile(slot, value);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        *slot = value;
    }
}
