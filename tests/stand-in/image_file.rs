//! The subcommand that writes images for demos in a shell.

use crate::solo5_image::{Image, Target};
use std::path::PathBuf;

pub fn write(mut arguments: pico_args::Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let target = match arguments.opt_value_from_str::<_, String>("--target")?.as_deref() {
        None | Some("spt") => Target::Spt,
        Some("hvt") => Target::Hvt,
        Some(other) => return Err(format!("no target {other}; there are spt and hvt").into()),
    };
    let mut image = Image::new(target, &arguments.opt_value_from_str("--version")?.unwrap_or("1".to_owned()));
    image.net_devices = arguments.values_from_str("--net")?;
    image.block_devices = arguments.values_from_str("--block")?;
    image.built_in_arguments = arguments.values_from_str("--argument")?;
    image.knows_name = !arguments.contains("--no-name-option");
    let size: usize = arguments.opt_value_from_str("--size")?.unwrap_or(0);
    let output: PathBuf = arguments.free_from_str()?;
    image.padding = size.saturating_sub(image.build().len());
    std::fs::write(output, image.build())?;
    Ok(())
}
