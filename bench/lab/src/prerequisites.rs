//! What a test may need and a machine may lack: root and programs. Never skips in silence: the
//! reason is printed, and under `CI=true` a skip is a failure.

use std::env;
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// True where this process may create network namespaces. Otherwise prints that the test `reason`
/// is skipped and returns false; panics where the environment says `CI=true`.
#[must_use]
pub fn require_root(reason: &str) -> bool {
    // Asked of the kernel rather than of the user id: containers have roots without this right.
    let answer = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match answer {
        Ok(Ok(())) => true,
        Ok(Err(errno)) => skip(reason, &format!("needs root to make network namespaces ({errno})")),
        Err(_) => skip(reason, "needs root to make network namespaces"),
    }
}

/// True where `program` is in PATH; otherwise as [`require_root`].
#[must_use]
pub fn require_tool(program: &str, reason: &str) -> bool {
    find_program(program).is_some() || skip(reason, &format!("needs `{program}` in PATH"))
}

/// Where `program` is, looked up in PATH.
#[must_use]
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[expect(clippy::print_stderr, reason = "a skipped test says so where its output goes")]
fn skip(reason: &str, lack: &str) -> bool {
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "{reason}: {lack}; under CI=true a skip is a failure"
    );
    eprintln!("skipped: {reason}: {lack}");
    false
}
