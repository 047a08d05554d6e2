//! The devices that a unikernel is given.

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::{Malformed, Text, Unsayable};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// In the unikernel.
    pub name: Text,
    /// On the host; `None`: the same.
    pub device: Option<Text>,
    pub sector_size: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bridge {
    /// The device in the unikernel.
    pub netif: Text,
    /// On the host; `None`: the same.
    pub bridge: Option<Text>,
    pub mac: Option<[u8; 6]>,
}

impl Block {
    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|block| {
            block.text(&self.name.0)?;
            if let Some(device) = &self.device {
                block.text(&device.0)?;
            }
            self.sector_size.map_or(Ok(()), |size| block.integer(size))
        })
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|block| {
            Ok(Self { name: block.text()?, device: block.optional_text()?, sector_size: block.optional_integer()? })
        })
    }
}

impl Bridge {
    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|bridge| {
            bridge.text(&self.netif.0)?;
            if let Some(name) = &self.bridge {
                bridge.text(&name.0)?;
            }
            self.mac.map_or(Ok(()), |mac| bridge.octets(&mac))
        })
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|bridge| {
            let (netif, name) = (bridge.text()?, bridge.optional_text()?);
            let mac = bridge.optional_octets()?.map(TryInto::try_into).transpose();
            let mac = mac.map_err(|_| Malformed::new("a MAC address is not of 6 octets"))?;
            Ok(Self { netif, bridge: name, mac })
        })
    }
}
