//! Which Debian packages there are for what, and how each one is recognised where it came from elsewhere.
//! Must never ask a package manager: a program in its place is enough.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Something to install.
#[derive(Debug, Clone, Copy)]
pub(super) struct Package {
    /// Debian's name.
    pub(super) name: &'static str,
    proof: Proof,
}

/// What shows that a package, or its like from elsewhere, is there.
#[derive(Debug, Clone, Copy)]
enum Proof {
    /// A program in `PATH` or in the administrator's folders.
    Program(&'static str),
    /// A shared library whose file name begins like this.
    Library(&'static str),
    /// Only the compiler search can tell.
    Search,
}

/// A compiler for BPF: Debian's `-web` packages follow Firefox and Chromium and are recent in stable.
pub(super) const COMPILER: [Package; 4] = [
    Package { name: "rustc-web", proof: Proof::Search },
    Package { name: "cargo-web", proof: Proof::Search },
    Package { name: "rust-web-src", proof: Proof::Search },
    Package { name: "libstd-rust-web-dev-bpf", proof: Proof::Search },
];

/// What linnet and its lab load or call.
pub(super) const RUN: [Package; 4] = [
    Package { name: "libpcap0.8", proof: Proof::Library("libpcap.so.") },
    Package { name: "iproute2", proof: Proof::Program("ip") },
    Package { name: "ethtool", proof: Proof::Program("ethtool") },
    Package { name: "iputils-ping", proof: Proof::Program("ping") },
];

/// What the tests use as oracles, traffic sources and browser.
pub(super) const TEST: [Package; 10] = [
    Package { name: "tshark", proof: Proof::Program("tshark") },
    Package { name: "tcpdump", proof: Proof::Program("tcpdump") },
    Package { name: "iperf3", proof: Proof::Program("iperf3") },
    Package { name: "nftables", proof: Proof::Program("nft") },
    Package { name: "conntrack", proof: Proof::Program("conntrack") },
    Package { name: "bpftool", proof: Proof::Program("bpftool") },
    Package { name: "chromium", proof: Proof::Program("chromium") },
    Package { name: "chromium-driver", proof: Proof::Program("chromedriver") },
    Package { name: "curl", proof: Proof::Program("curl") },
    Package { name: "python3", proof: Proof::Program("python3") },
];

/// What building `bpf-linker` against LLVM `major` needs.
pub(super) fn linker(major: u32) -> Vec<String> {
    vec![
        format!("llvm-{major}-dev"),
        format!("libpolly-{major}-dev"),
        "zlib1g-dev".to_owned(),
        "libzstd-dev".to_owned(),
    ]
}

/// Folders that a user's `PATH` often lacks.
const ADMINISTRATOR: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Folders of shared libraries on Debian and elsewhere; those of other machines are beside them.
const LIBRARIES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/lib",
];

impl Package {
    pub(super) fn is_there(&self) -> bool {
        match self.proof {
            Proof::Program(name) => program(name).is_some(),
            Proof::Library(prefix) => LIBRARIES.iter().any(|folder| library(folder, prefix)),
            Proof::Search => false,
        }
    }
}

/// The path of a program.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMINISTRATOR.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn library(folder: &str, prefix: &str) -> bool {
    fs::read_dir(Path::new(folder)).is_ok_and(|files| {
        files.flatten().any(|file| file.file_name().to_string_lossy().starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_wherever_it_came_from() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program-of-linnet").is_none());
    }

    #[test]
    fn the_linkers_packages_follow_the_compilers_llvm() {
        assert_eq!(linker(23)[0], "llvm-23-dev");
    }
}
