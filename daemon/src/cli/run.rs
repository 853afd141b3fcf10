//! `linnet run`: the daemon.

use std::{os::fd::AsFd as _, path::PathBuf};

use anyhow::Context as _;
use nix::sys::{prctl, signal::Signal};

use super::{ExitWith, exit};
use crate::{
    app::{self, Source},
    config::{Config, ConfigError, Overrides},
    live::{Handover, PacketHandover, Remote},
    supervisor,
};

/// Arguments of `linnet run`; each wins over the environment, and that over the file.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Configuration file [default: /etc/linnet/linnet.toml, if it exists].
    #[arg(long, env = "LINNET_CONFIG")]
    config: Option<PathBuf>,
    /// Interfaces to watch: [NAMESPACE/]NAME|PATTERN|#INDEX[,ingress=auto|tcx|clsact|xdp|xdp-generic|off][,egress=auto|tcx|clsact|off]
    /// [default: every interface that is up]. NAMESPACE is a name under /run/netns, or pid:NUMBER of a process in it.
    #[arg(long = "interface", short = 'i', value_name = "SPEC")]
    interfaces: Vec<String>,
    /// By what to watch: auto (programs in the kernel, or AF_PACKET sockets where it refuses them), ebpf or af_packet
    /// [default: auto].
    #[arg(long, env = "LINNET_SOURCE", value_name = "SOURCE")]
    source: Option<String>,
    /// Play a capture file in real time instead; needs no privilege.
    #[arg(long, value_name = "FILE", conflicts_with = "interfaces")]
    replay: Option<PathBuf>,
    /// Loopback address to serve HTTP on [default: 127.0.0.1:8470].
    #[arg(long, env = "LINNET_LISTEN")]
    listen: Option<String>,
    /// Folder of socket, lock and token [default: /run/linnet].
    #[arg(long, env = "LINNET_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Folder of captures [default: /var/lib/linnet].
    #[arg(long, env = "LINNET_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Folder of pinned maps [default: /sys/fs/bpf/linnet].
    #[arg(long, env = "LINNET_PIN_DIR")]
    pin_dir: Option<PathBuf>,
    /// Flows of the kernel's table [default: 65536].
    #[arg(long, env = "LINNET_FLOWS")]
    flows: Option<u32>,
    /// Print a URL with a login that works once.
    #[arg(long)]
    one_time_login: bool,
    /// End when the program that started this one does, however it ends; and the daemon with its attacher.
    #[arg(long)]
    end_with_parent: bool,
    /// Be the daemon of the attacher at the other end of standard input.
    #[arg(long, hide = true, conflicts_with = "replay")]
    handed_over: bool,
    /// With it: be one that reads sockets.
    #[arg(long, hide = true, requires = "handed_over")]
    handed_sockets: bool,
}

/// Runs the daemon until it is told to stop.
pub fn run(args: RunArgs) -> anyhow::Result<u8> {
    if args.end_with_parent && !args.handed_over {
        prctl::set_pdeathsig(Signal::SIGTERM).context("cannot ask to end with the parent")?;
    }
    let overrides = Overrides {
        interfaces: args.interfaces,
        source: args.source,
        listen: args.listen,
        run_dir: args.run_dir,
        state_dir: args.state_dir,
        pin_dir: args.pin_dir,
        flows: args.flows,
    };
    let (file, login) = (args.config.as_deref(), args.one_time_login);
    if args.handed_over {
        let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
        if args.handed_sockets {
            let handover = Box::new(PacketHandover::receive(socket.as_fd())?);
            let config = usage(Config::of_text(file, &handover.config, overrides))?;
            let remote = Remote::new(socket)?;
            app::run(&config, Source::Sockets { handover, remote }, login)?;
            return Ok(0);
        }
        let handover = Box::new(Handover::receive(socket.as_fd())?);
        let config = usage(Config::of_text(file, &handover.config, overrides))?;
        let (remote, ends_with_it) = (Remote::new(socket)?, args.end_with_parent);
        app::run(&config, Source::Live { handover, remote, ends_with_it }, login)?;
        return Ok(0);
    }
    let text = usage(Config::text(file))?;
    let config = usage(Config::of_text(file, &text, overrides))?;
    match args.replay {
        Some(path) => app::run(&config, Source::Replay(path), login).map(|()| 0),
        None => supervisor::run(&config, &text),
    }
}

/// A mistake in the configuration is one of usage.
fn usage<T>(config: Result<T, ConfigError>) -> Result<T, ExitWith> {
    config.map_err(|error| ExitWith { code: exit::USAGE, message: error.to_string() })
}
