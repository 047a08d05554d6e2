//! The tar that an engine makes of one file, and perhaps another of what signs it → the unikernel.

use std::fs::File;

use super::{Failure, Voice, Wanted};
use crate::images::archive::{self, Limits};

pub(super) fn run(wanted: &Wanted, tars: File, mut unikernel: File, voice: &mut Voice) -> Result<(), Failure> {
    let limits = Limits { output: wanted.limit, ..Limits::default() };
    // How far it is, the worker says that asks the engine.
    let signature = archive::taken(tars, wanted.signature, &limits, &mut |_| Ok(()), &mut unikernel)?;
    if let Some(signature) = signature {
        voice.signature(&String::from_utf8_lossy(&signature))?;
    }
    Ok(())
}
