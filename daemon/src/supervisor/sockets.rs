//! AF_PACKET sockets, where eBPF is refused: opened at the start, while there is the privilege for it, and handed to each
//! daemon. They outlive it, with the packets that wait. Reads no packet, and follows no interface.

use std::net::TcpListener;

use anyhow::Context as _;

use super::{NothingUp, holdings::Holdings, wanted};
use crate::{
    cli::{ExitWith, exit},
    config::{Config, WatchBy},
    kernel::Kernel,
    live::{
        self, Answer, HANDED_OVER, HANDED_SOCKETS, LiveError, Outcome, PacketEstate, Refusal,
        RefusalKind, Server, Verb,
    },
    packet_source,
};

/// Characters of the kernel's words that are shown in every answer; the log has all of them.
const WHY_MAX: usize = 300;

/// Sockets, and what is said of them.
#[derive(Debug)]
pub(super) struct Sockets(PacketEstate);

/// Why interfaces are to be read by sockets, as far as that shows before a program is loaded.
pub(super) fn reason(config: &Config, kernel: &Kernel) -> Option<String> {
    match config.source {
        WatchBy::Ebpf => None,
        WatchBy::AfPacket => Some("`source` is \"af_packet\"".to_owned()),
        WatchBy::Auto => kernel.shortfall().or_else(live::no_ebpf),
    }
}

/// The same where programs could not be loaded or attached: `None` where that is no refusal of eBPF, or nothing else may
/// take its place.
pub(super) fn reason_of(config: &Config, error: &anyhow::Error) -> Option<String> {
    let refused = error.downcast_ref::<LiveError>().is_some_and(live::refuses_ebpf);
    (refused && config.source == WatchBy::Auto).then(|| error.to_string())
}

impl Sockets {
    /// Opens a socket on every interface that is to be watched.
    pub(super) fn open(config: &Config, text: &str, why: &str) -> anyhow::Result<Self> {
        let room_bytes = config.sizes.capture_ring_bytes;
        let opened = live::open_sockets(&wanted(config), room_bytes).map_err(|error| {
            let is_theirs = matches!(error, LiveError::PacketSocket { .. });
            let error = anyhow::Error::new(error);
            if is_theirs {
                error.context(format!("cannot watch interfaces without eBPF, either ({why})"))
            } else {
                error
            }
        })?;
        if opened.is_empty() && config.interfaces.is_empty() {
            return Err(NothingUp(None).into());
        }
        if opened.is_empty() {
            let message = "none of the interfaces to watch is there, and AF_PACKET sockets are not opened for what comes later; `ip -br link` shows what there is";
            return Err(ExitWith { code: exit::USAGE, message: message.to_owned() }.into());
        }
        let shown = shown(why);
        tracing::warn!("{}", packet_source::notice(&shown));
        if shown != why {
            tracing::info!("all that the kernel said: {why}");
        }
        if live::left_in(&config.pin_dir) {
            tracing::warn!(
                "an attacher that was killed has left programs on interfaces, which nobody reads: `linnet detach` removes them"
            );
        }
        tracing::info!(
            sockets = opened.len(),
            flows = config.sizes.flows,
            room_bytes,
            "AF_PACKET sockets"
        );
        let estate = PacketEstate::new(text, &shown, opened);
        estate.context("cannot prepare what the daemon is handed").map(Self)
    }
}

/// The first line, as far as there is room for it: a verifier says a lot.
fn shown(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default().trim_end();
    match line.char_indices().nth(WHY_MAX) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}..", &line[..end]),
    }
}

impl Holdings for Sockets {
    fn arguments(&self) -> &'static [&'static str] {
        &[HANDED_OVER, HANDED_SOCKETS]
    }

    fn hand_over(&self, to: &Server, listener: &TcpListener) -> Result<(), LiveError> {
        self.0.hand_over(to, listener)
    }

    fn stays(&self) -> &'static str {
        "sockets and the packets in them"
    }

    fn perform(&self, verb: Verb) -> Outcome {
        match verb {
            Verb::Serving | Verb::Ending | Verb::StopCaptures => Ok(Answer::Done),
            Verb::StartCapture { .. }
            | Verb::StopCapture { .. }
            | Verb::SetRules(_)
            | Verb::RestoreRules(_)
            | Verb::Look { .. } => Err(Refusal {
                kind: RefusalKind::Other,
                rule: None,
                message: "an attacher of AF_PACKET sockets has no programs".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_the_kernel_says_the_first_line_is_shown() {
        assert_eq!(shown("refused: no\nR1 type=ctx\n"), "refused: no");
        let long = shown(&"é".repeat(WHY_MAX + 1));
        assert!(long.ends_with("é..") && long.chars().count() == WHY_MAX + 2);
    }
}
