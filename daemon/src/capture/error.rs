//! Why a capture cannot be had. Says what, why and what to do; never shows a path of the daemon's.

use captures::FilterError;

/// Why a capture cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// One runs.
    #[error("the capture {0} is running; stop it first, or wait until it ends")]
    Running(String),
    /// The filter is wrong, or there is no libpcap to compile it.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A value is out of bounds.
    #[error("`{field}`: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// No such capture.
    #[error("there is no capture `{0}`; it may have been removed to make room")]
    Unknown(String),
    /// The kernel or the disk refused.
    #[error("the capture failed: {0:#}")]
    Failed(anyhow::Error),
}
