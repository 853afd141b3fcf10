//! Sequence numbers, compared in a circle of 2^32 (RFC 9293, 3.4).

/// Whether `a` lies before `b`.
#[inline(always)]
#[must_use]
pub const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// Whether `a` lies after `b`.
#[inline(always)]
#[must_use]
pub const fn after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() < 0
}

/// Whether `a` lies before `b` or is `b`.
#[inline(always)]
#[must_use]
pub const fn at_or_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() <= 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(before(u32::MAX - 1, 3));
        assert!(after(3, u32::MAX - 1));
        assert!(at_or_before(7, 7));
        assert!(!before(7, 7));
    }
}
