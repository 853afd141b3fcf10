//! Embeds the BPF objects in the daemon, or the reason why there are none. Must never fail for want of a
//! toolchain, and must never embed nothing when one is there and the objects do not compile.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = env::var_os("OUT_DIR").map(PathBuf::from).ok_or("cargo sets `OUT_DIR`")?;
    println!("cargo::rerun-if-changed=build.rs");
    for directive in xtask::bpf::embed(&out_dir)? {
        println!("cargo::{directive}");
    }
    Ok(())
}
