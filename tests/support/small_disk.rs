//! A folder on a small file system of its own.
#![allow(dead_code, reason = "each test takes of this module what it needs")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::netns::try_sh;

/// Unmounted with this value.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// With `size` MiB. The error is why it cannot be had here.
    pub fn mount(directory: &Path, size: usize) -> Result<Self, String> {
        std::fs::create_dir_all(directory).unwrap();
        let (mounted, why) = try_sh(&format!("mount -t tmpfs -o size={size}m,mode=700 tmpfs {}", directory.display()));
        if mounted { Ok(Self(directory.to_owned())) } else { Err(why) }
    }

    pub fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        let mut chunk = 1 << 16;
        while chunk > 0 {
            if filler.write_all(&vec![0; chunk]).is_err() {
                chunk /= 2;
            }
        }
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        try_sh(&format!("umount -l {}", self.0.display()));
    }
}
