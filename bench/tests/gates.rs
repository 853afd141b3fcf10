//! The programs stay within the gates that can be counted. Times are not judged here: other tests run beside it.

use bench::gates;

#[test]
fn every_program_loads_and_stays_within_the_counted_gates() {
    if let Err(reason) = gates::check_prerequisites() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run under CI: {reason}");
        println!("skipped: the gates of the kernel programs: {reason}");
        return;
    }
    let sizes = gates::sizes(1).unwrap();
    for size in &sizes {
        println!("{size:?}");
    }
    for tracker in ["linnet_xdp", "linnet_ingress", "linnet_egress"] {
        assert!(sizes.iter().any(|size| size.program == tracker), "{tracker} is not in its object");
    }
    assert_eq!(gates::broken_counts(&sizes), [""; 0]);
}
