//! `linnet detach`: removes what a daemon that was killed left: pinned maps and clsact filters.
#![expect(clippy::print_stdout, reason = "a command says what it did")]

use std::path::PathBuf;

use crate::live;

/// Arguments of `linnet detach`.
#[derive(Debug, clap::Args)]
pub struct DetachArgs {
    /// Folder of the pinned maps.
    #[arg(long, env = "LINNET_PIN_DIR", default_value = "/sys/fs/bpf/linnet")]
    pin_dir: PathBuf,
}

/// Removes what is left.
pub fn run(args: &DetachArgs) -> anyhow::Result<u8> {
    let detached = live::detach(&args.pin_dir)?;
    println!("removed {} pinned maps and {} filters", detached.pins, detached.filters);
    Ok(0)
}
