//! `linnet detach`: removes what a linnet that was killed, or told to, left: programs on their hooks, by pinned links and by
//! clsact filters, a daemon without an attacher, pinned maps and backups of them. Must never say that all is clean where it
//! is not.

use std::path::PathBuf;

use super::{exit, say};
use crate::{config::PIN_DIR_DEFAULT, live};

/// Arguments of `linnet detach`.
#[derive(Debug, clap::Args)]
pub struct DetachArgs {
    /// Folder of the pinned maps.
    #[arg(long, env = "LINNET_PIN_DIR", default_value = PIN_DIR_DEFAULT)]
    pin_dir: PathBuf,
}

/// Removes what is left.
pub fn run(args: &DetachArgs) -> anyhow::Result<u8> {
    let detached = live::detach(&args.pin_dir)?;
    let mut said = format!(
        "removed {} pinned maps, {} links and {} filters\n",
        detached.pins, detached.links, detached.filters
    );
    if detached.daemons > 0 {
        said += "ended the daemon that was left without its attacher\n";
    }
    if detached.backups > 0 {
        said += "removed the maps of another layout that were put aside\n";
    }
    if detached.kept > 0 {
        said += &format!(
            "{} interfaces could not be cleaned and stay on record; the log has the reasons: run this again when they are mended\n",
            detached.kept
        );
    }
    say(&said)?;
    Ok(if detached.kept == 0 { 0 } else { exit::FAILED })
}
