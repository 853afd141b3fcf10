//! Verbs as bytes. What is read here has passed every check of its own; whether it fits what is attached is the
//! attacher's to say.

use datapath::layout::{CAPTURES_MAX, POINTS_MAX, RULES_MAX};

use super::{Reader, Wire, WireError, Writer};
use crate::live::verb::{
    AttachRequest, EgressChoice, INTERFACE_NAME_MAX, IngressChoice, NAMESPACE_NAME_MAX,
    StageConfig, Verb, is_namespace,
};

impl Wire for Verb {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        match self {
            Self::StartCapture { slot, config } => {
                writer.u8(0);
                writer.u8(*slot);
                config.put(writer)
            }
            Self::StopCapture { slot } => {
                writer.u8(1);
                writer.u8(*slot);
                Ok(())
            }
            Self::SetRules(rules) => {
                writer.u8(2);
                writer.list("rules", rules, RULES_MAX)
            }
            Self::Look { left } => {
                writer.u8(3);
                writer.list("points", left, POINTS_MAX as usize)
            }
            Self::Serving => {
                writer.u8(4);
                Ok(())
            }
            Self::Ending => {
                writer.u8(5);
                Ok(())
            }
            Self::RestoreRules(rules) => {
                writer.u8(6);
                writer.list("rules", rules, RULES_MAX)
            }
            Self::StopCaptures => {
                writer.u8(7);
                Ok(())
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            0 => Self::StartCapture { slot: slot(reader)?, config: StageConfig::take(reader)? },
            1 => Self::StopCapture { slot: slot(reader)? },
            2 => Self::SetRules(reader.list("rules", RULES_MAX)?),
            3 => Self::Look { left: points(reader)? },
            4 => Self::Serving,
            5 => Self::Ending,
            6 => Self::RestoreRules(reader.list("rules", RULES_MAX)?),
            7 => Self::StopCaptures,
            value => return Err(WireError::Unknown { what: "verb", value }),
        })
    }
}

/// A capture's place.
fn slot(reader: &mut Reader<'_>) -> Result<u8, WireError> {
    let slot = reader.u8()?;
    if usize::from(slot) < CAPTURES_MAX { Ok(slot) } else { Err(WireError::Value("slot")) }
}

fn points(reader: &mut Reader<'_>) -> Result<Vec<u32>, WireError> {
    let points: Vec<u32> = reader.list("points", POINTS_MAX as usize)?;
    let is_good = points.iter().all(|point| (1..POINTS_MAX).contains(point));
    if is_good { Ok(points) } else { Err(WireError::Value("point")) }
}

impl Wire for AttachRequest {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.option(self.namespace.as_ref(), |writer, name| {
            writer.text("namespace", name, NAMESPACE_NAME_MAX)
        })?;
        writer.text("interface", &self.interface, INTERFACE_NAME_MAX)?;
        writer.u8(match self.ingress {
            IngressChoice::Auto => 0,
            IngressChoice::Tcx => 1,
            IngressChoice::Clsact => 2,
            IngressChoice::Xdp => 3,
            IngressChoice::XdpGeneric => 4,
            IngressChoice::Off => 5,
        });
        writer.u8(match self.egress {
            EgressChoice::Auto => 0,
            EgressChoice::Tcx => 1,
            EgressChoice::Clsact => 2,
            EgressChoice::Off => 3,
        });
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let namespace = reader.option(|reader| reader.text("namespace", NAMESPACE_NAME_MAX))?;
        if namespace.as_deref().is_some_and(|name| !is_namespace(name)) {
            return Err(WireError::Value("namespace"));
        }
        let interface = reader.text("interface", INTERFACE_NAME_MAX)?;
        let named = Self::named(&interface).map_err(|_| WireError::Value("interface"))?;
        let ingress = match reader.u8()? {
            0 => IngressChoice::Auto,
            1 => IngressChoice::Tcx,
            2 => IngressChoice::Clsact,
            3 => IngressChoice::Xdp,
            4 => IngressChoice::XdpGeneric,
            5 => IngressChoice::Off,
            value => return Err(WireError::Unknown { what: "ingress", value }),
        };
        let egress = match reader.u8()? {
            0 => EgressChoice::Auto,
            1 => EgressChoice::Tcx,
            2 => EgressChoice::Clsact,
            3 => EgressChoice::Off,
            value => return Err(WireError::Unknown { what: "egress", value }),
        };
        if ingress == IngressChoice::Off && egress == EgressChoice::Off {
            return Err(WireError::Value("choice of hooks"));
        }
        Ok(Self { namespace, ingress, egress, ..named })
    }
}
