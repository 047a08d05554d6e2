//! The commands about a unikernel.

use super::config::{Config, Run};
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::{Dialect, Malformed, Unsayable};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnikernelCommand {
    Destroy,
    Create {
        dialect: Dialect,
        /// Destroy one of that name first.
        force: bool,
        config: Box<Config>,
    },
    /// The image; 0 to 9 is how hard to compress it.
    Get(i64),
    /// With other parameters or, `None`, as it is.
    Restart(Option<(Dialect, Box<Run>)>),
    Info(Dialect),
}

/// Where each dialect has its create, its create by force, its info and its restart with other parameters.
const TAGS: [(Dialect, u32, u32, u32, u32); 3] =
    [(Dialect::Before2_6, 9, 10, 15, 1), (Dialect::V2_6, 16, 17, 18, 2), (Dialect::V2_7, 20, 21, 19, 3)];

const RESTART: u32 = 14;

impl UnikernelCommand {
    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Destroy => encoder.tagged(3, Encoder::null),
            Self::Get(level) => encoder.tagged(11, |inner| inner.integer(*level)),
            Self::Restart(None) => encoder.tagged(RESTART, |inner| inner.tagged(0, Encoder::null)),
            Self::Restart(Some((dialect, run))) => {
                let tag = tags(*dialect).4;
                encoder.tagged(RESTART, |inner| inner.tagged(tag, |inner| run.encode(*dialect, inner)))
            }
            Self::Info(dialect) => encoder.tagged(tags(*dialect).3, Encoder::null),
            Self::Create { dialect, force, config } => {
                let (_, create, by_force, ..) = tags(*dialect);
                encoder.tagged(if *force { by_force } else { create }, |inner| config.encode(*dialect, inner))
            }
        }
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            3 => inner.null().map(|()| Self::Destroy),
            11 => inner.integer().map(Self::Get),
            RESTART => decode_restart(inner).map(Self::Restart),
            _ => decode_versioned(tag, inner),
        })
    }
}

fn tags(dialect: Dialect) -> (Dialect, u32, u32, u32, u32) {
    TAGS[dialect as usize]
}

fn decode_restart(decoder: &mut Decoder<'_>) -> Result<Option<(Dialect, Box<Run>)>, Malformed> {
    decoder.choice(|tag, inner| {
        if tag == 0 {
            return inner.null().map(|()| None);
        }
        let found = TAGS.into_iter().find(|tags| tags.4 == tag);
        let (dialect, ..) = found.ok_or_else(|| Malformed::unknown("kind of restart", tag))?;
        Ok(Some((dialect, Box::new(Run::decode(dialect, inner)?))))
    })
}

fn decode_versioned(tag: u32, decoder: &mut Decoder<'_>) -> Result<UnikernelCommand, Malformed> {
    for (dialect, create, by_force, info, _) in TAGS {
        if tag == info {
            return decoder.null().map(|()| UnikernelCommand::Info(dialect));
        }
        if tag == create || tag == by_force {
            let config = Box::new(Config::decode(dialect, decoder)?);
            return Ok(UnikernelCommand::Create { dialect, force: tag == by_force, config });
        }
    }
    Err(Malformed::unknown("command about a unikernel", tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_dialects() {
        for dialect in Dialect::NEWEST_FIRST {
            assert_eq!(tags(dialect).0, dialect);
        }
    }
}
