//! The most that a program may cost before it sees a packet. Judges counts and load times; never ns per packet,
//! which a shared machine cannot promise.

use std::time::Duration;

use daemon::live::{Object, not_built_reason};

use crate::{
    BenchError,
    door::{Door, Size},
};

/// Instructions that the verifier may walk. The kernel's own limit is 1,000,000; a program near it fails on the next
/// kernel, whose verifier counts differently.
pub const VERIFIED_MAX: u32 = 80_000;
/// Instructions of the translated program.
pub const INSTRUCTIONS_MAX: u32 = 10_000;
/// Time to load one program.
pub const LOAD_MAX: Duration = Duration::from_millis(80);
/// How often a load is timed where its time is judged; the shortest counts.
pub const LOADS: u32 = 5;

/// Both objects.
pub const OBJECTS: [Object; 2] = [Object::Xdp, Object::Tc];

/// Whether programs can be loaded here.
pub fn check_prerequisites() -> Result<(), BenchError> {
    if not_built_reason().is_some() {
        for object in OBJECTS {
            object.bytes()?;
        }
    }
    let user = nix::unistd::geteuid();
    if user.is_root() { Ok(()) } else { Err(BenchError::Privilege { uid: user.as_raw() }) }
}

/// Loads every program of both objects, each `times` times.
pub fn sizes(times: u32) -> Result<Vec<Size>, BenchError> {
    let mut sizes = Vec::new();
    for object in OBJECTS {
        let mut door = Door::open(object)?;
        for program in door.programs() {
            sizes.push(door.load(&program, times)?);
        }
    }
    Ok(sizes)
}

/// What exceeds the gates on counts, which are the same on every run on one kernel.
#[must_use]
pub fn broken_counts(sizes: &[Size]) -> Vec<String> {
    let mut broken = Vec::new();
    for Size { program, verified, instructions, .. } in sizes {
        if *verified == 0 {
            broken.push(format!(
                "`{program}`: this kernel does not say how much it verified (5.16 and later do)"
            ));
        }
        if *verified > VERIFIED_MAX {
            broken.push(format!(
                "`{program}`: {verified} verified instructions, more than {VERIFIED_MAX}"
            ));
        }
        if *instructions > INSTRUCTIONS_MAX {
            broken.push(format!(
                "`{program}`: {instructions} instructions, more than {INSTRUCTIONS_MAX}"
            ));
        }
    }
    broken
}

/// What exceeds the gate on load time.
#[must_use]
pub fn broken_loads(sizes: &[Size]) -> Vec<String> {
    let slow = sizes.iter().filter(|size| size.load > LOAD_MAX);
    slow.map(|Size { program, load, .. }| {
        format!(
            "`{program}`: {:.1} ms to load, more than {} ms",
            milliseconds(*load),
            LOAD_MAX.as_millis()
        )
    })
    .collect()
}

/// As printed.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(verified: u32, instructions: u32, load_ms: u64) -> Size {
        Size {
            program: "p".to_owned(),
            verified,
            instructions,
            jited_bytes: 0,
            load: Duration::from_millis(load_ms),
        }
    }

    #[test]
    fn a_program_at_the_gates_passes() {
        let sizes = [size(VERIFIED_MAX, INSTRUCTIONS_MAX, 80)];
        assert_eq!(broken_counts(&sizes), [""; 0]);
        assert_eq!(broken_loads(&sizes), [""; 0]);
    }

    #[test]
    fn each_gate_is_judged_by_itself() {
        let sizes = [size(VERIFIED_MAX + 1, 1, 1), size(1, INSTRUCTIONS_MAX + 1, 81)];
        assert_eq!(broken_counts(&sizes).len(), 2);
        assert_eq!(broken_loads(&sizes).len(), 1);
    }

    #[test]
    fn a_count_that_the_kernel_withholds_is_no_pass() {
        assert_eq!(broken_counts(&[size(0, 1, 1)]).len(), 1);
    }
}
