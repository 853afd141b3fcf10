//! Rules as bytes. A rule's observation point is never sent: its interface's name stands for it.

use datapath::{
    Direction,
    rules::{Action, Network, Ports, Rule, SAMPLE_MAX, SAMPLE_MIN},
};

use super::{Reader, Wire, WireError, Writer};
use crate::live::verb::{INTERFACE_NAME_MAX, NAMESPACE_NAME_MAX, RuleRequest};

/// Longest `[NAMESPACE/]NAME`.
const PLACE_MAX: usize = NAMESPACE_NAME_MAX + 1 + INTERFACE_NAME_MAX;

impl Wire for RuleRequest {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        let rule = &self.rule;
        match rule.action {
            Action::Track => writer.u8(0),
            Action::Ignore => writer.u8(1),
            Action::Sample(one_in) => {
                writer.u8(2);
                writer.u32(one_in);
            }
        }
        for (network, ports) in [(&rule.network, &rule.port), (&rule.peer_network, &rule.peer_port)]
        {
            writer.option(network.as_ref(), |writer, network| network.put(writer))?;
            writer.option(ports.as_ref(), |writer, ports| ports.put(writer))?;
        }
        writer.option(rule.protocol.as_ref(), |writer, protocol| {
            writer.u8(*protocol);
            Ok(())
        })?;
        writer.option(rule.direction.as_ref(), |writer, direction| {
            writer.u8(*direction as u8);
            Ok(())
        })?;
        writer.option(self.interface.as_ref(), |writer, name| {
            writer.text("interface of a rule", name, PLACE_MAX)
        })
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let action = match reader.u8()? {
            0 => Action::Track,
            1 => Action::Ignore,
            2 => match reader.u32()? {
                one_in @ SAMPLE_MIN..=SAMPLE_MAX => Action::Sample(one_in),
                _ => return Err(WireError::Value("share of a sample")),
            },
            value => return Err(WireError::Unknown { what: "action", value }),
        };
        let mut rule = Rule::everything(action);
        rule.network = reader.option(Network::take)?;
        rule.port = reader.option(Ports::take)?;
        rule.peer_network = reader.option(Network::take)?;
        rule.peer_port = reader.option(Ports::take)?;
        rule.protocol = reader.option(Reader::u8)?;
        rule.direction = reader.option(|reader| match reader.u8()? {
            0 => Ok(Direction::Ingress),
            1 => Ok(Direction::Egress),
            value => Err(WireError::Unknown { what: "direction", value }),
        })?;
        let interface = reader.option(|reader| reader.text("interface of a rule", PLACE_MAX))?;
        if interface.as_deref().is_some_and(|name| name.contains(char::is_control)) {
            return Err(WireError::Value("interface of a rule"));
        }
        Ok(Self { rule, interface })
    }
}

impl Wire for Network {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        let (prefix, ipv6) = self.prefix();
        writer.u8(u8::from(ipv6));
        writer.u32(prefix);
        writer.bytes(&self.address());
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (family, prefix) = (reader.u8()?, reader.u32()?);
        let address = reader.array::<16>()?;
        let network = match family {
            0 => {
                let [.., a, b, c, d] = address;
                Self::v4([a, b, c, d], prefix)
            }
            1 => Self::v6(address, prefix),
            value => return Err(WireError::Unknown { what: "family", value }),
        };
        // Bits beyond the prefix, or in front of a mapped address, would be a second form of the same network.
        match network {
            Some(network) if network.address() == address => Ok(network),
            _ => Err(WireError::Value("network")),
        }
    }
}

impl Wire for Ports {
    fn put(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.u16(self.first);
        writer.u16(self.last);
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (first, last) = (reader.u16()?, reader.u16()?);
        if first <= last { Ok(Self { first, last }) } else { Err(WireError::Value("ports")) }
    }
}
