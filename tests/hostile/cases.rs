//! One bad image, and what must be said of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::saved_image::{Files, Layer, Tar, docker_legacy, oci_layout, tar_of};
use super::solo5_image::{Target, image};

pub struct Case {
    /// For a failed test.
    pub name: &'static str,
    pub form: Form,
    pub content: Content,
    /// The name of the error behind `org.albatross.Deployer1.Error.`.
    pub error: &'static str,
    /// Of its message.
    pub says: &'static str,
}

/// How Deploy is told of it.
#[derive(Clone, Copy)]
pub enum Form {
    Docker,
    Oci,
    /// A folder.
    Layout,
    /// A unikernel by its path.
    Path,
}

pub enum Content {
    Bytes(Vec<u8>),
    /// And zeros behind up to this size, which take no room on the disk.
    Extended(Vec<u8>, u64),
    Folder(Files),
}

impl Case {
    /// Of which the error is that the image is invalid.
    fn invalid(name: &'static str, form: Form, bytes: Vec<u8>, says: &'static str) -> Self {
        Self { name, form, content: Content::Bytes(bytes), error: "ImageInvalid", says }
    }

    /// The same, of one that may be good and has no image that is meant.
    pub fn without_image(self) -> Self {
        Self { error: "ImageUnavailable", ..self }
    }

    pub fn docker(name: &'static str, bytes: Vec<u8>, says: &'static str) -> Self {
        Self::invalid(name, Form::Docker, bytes, says)
    }

    pub fn oci(name: &'static str, files: &Files, says: &'static str) -> Self {
        Self::invalid(name, Form::Oci, tar_of(files), says)
    }

    /// A good layer, and this one on it.
    pub fn tar(name: &'static str, tar: Tar, says: &'static str) -> Self {
        Self::layer(name, Layer::plain(tar), says)
    }

    pub fn layer(name: &'static str, layer: Layer, says: &'static str) -> Self {
        Self::docker(name, tar_of(&docker_legacy(&[(&["a:1"], &[Layer::plain(good()), layer])])), says)
    }

    pub fn oci_layer(name: &'static str, layer: Layer, says: &'static str) -> Self {
        Self::oci(name, &oci_layout(&[layer], "1"), says)
    }

    pub fn elf(name: &'static str, bytes: Vec<u8>, says: &'static str) -> Self {
        Self::invalid(name, Form::Path, bytes, says)
    }

    /// Writes it to `folder`, and returns how Deploy is told of it.
    pub fn write(&self, folder: &Path) -> String {
        let path = folder.join("hostile");
        remove(&path);
        match &self.content {
            Content::Bytes(bytes) => fs::write(&path, bytes).unwrap(),
            Content::Extended(bytes, size) => {
                fs::write(&path, bytes).unwrap();
                File::options().write(true).open(&path).unwrap().set_len(*size).unwrap();
            }
            Content::Folder(files) => write_files(&path, files),
        }
        let path = path.display();
        match self.form {
            Form::Docker => format!("docker-archive:{path}"),
            Form::Oci => format!("oci-archive:{path}"),
            Form::Layout => format!("oci:{path}"),
            Form::Path => path.to_string(),
        }
    }
}

fn remove(path: &PathBuf) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
}

fn write_files(folder: &Path, files: &Files) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // A name that ends so stands for a link to what its content says.
        match name.strip_suffix("->") {
            Some(name) => {
                let target = String::from_utf8(content.clone()).unwrap();
                std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
            }
            None => fs::write(path, content).unwrap(),
        }
    }
}

/// A unikernel that could be deployed.
pub fn unikernel() -> Vec<u8> {
    image(Target::Spt, "1", &["service"], &[], 0)
}

/// A layer with it.
pub fn good() -> Tar {
    Tar::new().file("unikernel.spt", unikernel())
}
