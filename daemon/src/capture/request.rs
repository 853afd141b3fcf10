//! What a client asks for, and the bounds of it. Never touches an interface, a file or libpcap.

use captures::Snaplen;
use serde::{Deserialize, Serialize};

use super::{BYTES_DEFAULT, BYTES_MAX, CaptureError, DURATION_DEFAULT_S, DURATION_MAX_S};

/// A capture as a client asks for it; fields that are not known are errors.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// tcpdump's filter language; absent, null or empty for every packet.
    #[serde(default)]
    pub filter: Option<String>,
    /// Interface as in `/interfaces`; absent or null for all.
    #[serde(default)]
    pub interface: Option<String>,
    /// Most bytes of each packet, 1 to 262,144; absent or null for all. The kernel copies at most 65,536.
    #[serde(default)]
    pub snaplen: Option<u32>,
    /// When to stop; whichever comes first.
    #[serde(default)]
    pub limits: RequestLimits,
}

/// When a capture stops. In an answer `bytes` and `seconds` are what holds, whether asked for or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLimits {
    /// Packets in the file; no limit where absent.
    #[serde(default)]
    pub packets: Option<u64>,
    /// Bytes of the file, final statistics included, up to [`BYTES_MAX`].
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Seconds, up to [`DURATION_MAX_S`].
    #[serde(default)]
    pub seconds: Option<u64>,
}

/// A request whose numbers are within their bounds.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) filter: String,
    pub(super) interface: Option<String>,
    pub(super) snaplen: Snaplen,
    pub(super) packets: Option<u64>,
    pub(super) bytes: u64,
    pub(super) seconds: u64,
}

impl Wanted {
    pub(super) fn limits(&self) -> RequestLimits {
        let (bytes, seconds) = (Some(self.bytes), Some(self.seconds));
        RequestLimits { packets: self.packets, bytes, seconds }
    }
}

impl TryFrom<CaptureRequest> for Wanted {
    type Error = CaptureError;

    fn try_from(request: CaptureRequest) -> Result<Self, Self::Error> {
        let snaplen =
            Snaplen::try_new(request.snaplen.unwrap_or(Snaplen::MAX)).map_err(|error| {
                CaptureError::Field { field: "snaplen", problem: error.to_string() }
            })?;
        let limits = request.limits;
        let bytes = bounded("limits.bytes", limits.bytes, BYTES_MAX)?;
        let seconds = bounded("limits.seconds", limits.seconds, DURATION_MAX_S)?;
        Ok(Self {
            filter: request.filter.unwrap_or_default().trim().to_owned(),
            interface: request.interface,
            snaplen,
            packets: bounded("limits.packets", limits.packets, u64::MAX)?,
            bytes: bytes.unwrap_or(BYTES_DEFAULT),
            seconds: seconds.unwrap_or(DURATION_DEFAULT_S),
        })
    }
}

fn bounded(field: &'static str, value: Option<u64>, max: u64) -> Result<Option<u64>, CaptureError> {
    match value {
        Some(value) if value == 0 || value > max => {
            let problem =
                format!("{value} is not between 1 and {max}; leave it out for the default");
            Err(CaptureError::Field { field, problem })
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(json: &str) -> Result<Wanted, String> {
        let request: CaptureRequest =
            serde_json::from_str(json).map_err(|error| error.to_string())?;
        Wanted::try_from(request).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_or_null_has_a_default() {
        let json = r#"{"filter":null,"interface":null,"snaplen":null,"limits":{"packets":null}}"#;
        for json in ["{}", json] {
            let wanted = wanted(json).unwrap();
            assert_eq!((wanted.seconds, wanted.bytes), (DURATION_DEFAULT_S, BYTES_DEFAULT));
            assert_eq!((wanted.filter.as_str(), wanted.snaplen), ("", Snaplen::WHOLE));
            assert_eq!(wanted.packets, None);
        }
    }

    #[test]
    fn values_out_of_bounds_name_their_field() {
        for (json, field) in [
            (r#"{"snaplen":0}"#, "snaplen"),
            (r#"{"snaplen":262145}"#, "snaplen"),
            (r#"{"limits":{"packets":0}}"#, "limits.packets"),
            (r#"{"limits":{"bytes":99999999999999}}"#, "limits.bytes"),
            (r#"{"limits":{"seconds":86401}}"#, "limits.seconds"),
            (r#"{"filtre":"tcp"}"#, "filtre"),
            (r#"{"limits":{"secs":1}}"#, "secs"),
        ] {
            let error = wanted(json).unwrap_err();
            assert!(error.contains(field), "{json}: {error}");
        }
    }
}
