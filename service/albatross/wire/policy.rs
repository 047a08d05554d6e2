//! What Albatross allows at a path.

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::{Malformed, Text, Unsayable};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub cpuids: Vec<i64>,
    /// How many may run; 4611686018427387903, the greatest of an OCaml int, where nobody said.
    pub unikernels: i64,
    /// MiB.
    pub memory: i64,
    /// MiB.
    pub block: Option<i64>,
    pub bridges: Vec<Text>,
}

impl Policy {
    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|policy| {
            policy.sequence_of(&self.cpuids, |item, cpu| item.integer(*cpu))?;
            policy.integer(self.unikernels)?;
            policy.integer(self.memory)?;
            if let Some(block) = self.block {
                policy.integer(block)?;
            }
            policy.sequence_of(&self.bridges, |item, bridge| item.text(&bridge.0))
        })
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|policy| {
            Ok(Self {
                cpuids: policy.sequence_of(Decoder::integer)?,
                unikernels: policy.integer()?,
                memory: policy.integer()?,
                block: policy.optional_integer()?,
                bridges: policy.sequence_of(Decoder::text)?,
            })
        })
    }
}
