//! What a Solo5 image says of itself: whether this host can run it, and which devices its manifest asks for.
//!
//! Two programs read an image after us, and they look in different places. The tender (`solo5-hvt`, `solo5-spt`) takes
//! the first note of a `PT_NOTE` segment; Albatross takes the section called `.note.solo5.abi` or
//! `.note.solo5.manifest`. An image is good when both find the same bytes, so that what was checked is what will run.

mod elf;
mod notes;

use std::io::{Read, Seek};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::domain::NetworkDevice;
use elf::Elf;
use notes::Device;

/// The devices of an image that can be deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    pub network: NetworkDevice,
    /// In the manifest's order.
    pub blocks: Vec<String>,
}

/// Checks an image and reads its manifest: headers and notes only, at most about half a MiB of it whatever it claims.
///
/// # Errors
/// [`Error::Invalid`] says what is wrong and what was expected; [`Error::Io`] when the file cannot be read.
pub fn inspect(image: impl Read + Seek) -> Result<Devices, Error> {
    let mut elf = Elf::read(image)?;
    elf.check_segments()?;
    let abi = elf.note(&notes::ABI)?;
    notes::check_abi(&abi)?;
    let manifest = elf.note(&notes::MANIFEST)?;
    devices(notes::manifest(&manifest)?)
}

/// One network device, because a unikernel has one lease; block devices as many as it likes.
fn devices(manifest: Vec<Device>) -> Result<Devices, Error> {
    let mut networks = Vec::new();
    let mut blocks = Vec::new();
    for device in manifest {
        match device {
            Device::Network(name) => networks.push(name),
            Device::Block(name) => blocks.push(name),
        }
    }
    match <[String; 1]>::try_from(networks) {
        Ok([network]) => Ok(Devices { network: NetworkDevice(network), blocks }),
        Err(networks) if networks.is_empty() => {
            invalid("this image has no network device; exactly one is needed, for the address that it is to get")
        }
        Err(networks) => invalid(format!(
            "this image has {} network devices: {}; exactly one is needed: build it with a single network interface",
            networks.len(),
            networks.join(", ")
        )),
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::Invalid(message.into()))
}
