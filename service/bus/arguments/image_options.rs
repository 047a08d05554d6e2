//! What is said with an image: where in it the unikernel stands, how it is built, what signs it.

use serde::Deserialize;

use super::options::Known;
use super::refusal::{Refusal, about};
use super::{InvalidArgument, Options, own_words};
use crate::domain::{BuildOptions, BuildRequest, ImageOptions, ImageReference};
use crate::images::signature;

/// Options of Deploy that are about its image.
pub(super) const IMAGE: &[Known] = &[
    ("image-path", "s"),
    ("mirage", "s"),
    ("config-file", "s"),
    ("mirage-args", "as"),
    ("extra-instructions", "as"),
    ("opam-repository-commit", "s"),
    ("dockerfile", "s"),
    (SIGNATURE, "s"),
];

const SIGNATURE: &str = "signature";
const CONTAINERS: &str = "docker-daemon:, docker-archive:, oci-archive:, oci:, docker:// and git+ images";
const REPOSITORIES: &str = "git+https://, git+ssh:// and git+file:/// images";

/// The options as they are written, `None` where they are not.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Written {
    image_path: Option<String>,
    signature: Option<String>,
    #[serde(flatten)]
    build: BuildRequest,
}

impl Written {
    /// Those of a call.
    pub(super) fn take(options: &mut Options) -> Result<Self, InvalidArgument> {
        Ok(Self {
            image_path: options.take("image-path")?,
            signature: options.take("signature")?,
            build: BuildRequest {
                mirage: options.take("mirage")?,
                config_file: options.take("config-file")?,
                mirage_args: options.take("mirage-args")?,
                extra_instructions: options.take("extra-instructions")?,
                opam_repository_commit: options.take("opam-repository-commit")?,
                dockerfile: options.take("dockerfile")?,
            },
        })
    }

    /// What they mean for `image`.
    pub(super) fn options(self, image: &ImageReference) -> Result<ImageOptions, Refusal> {
        if let Some(option) = self.given().find(|option| !takes(image, option)) {
            return Err(refused(option, goes_with(option)));
        }
        let image_path = about("image-path", self.image_path.map(|text| own_words(&text)).transpose())?;
        let build = matches!(image, ImageReference::Git(_)).then(|| BuildOptions::new(self.build, image_path.clone()));
        let build = build.transpose().map_err(|error| refused(error.option(), error.to_string()))?;
        let signature = about("signature", self.signature.map(signature).transpose())?;
        Ok(ImageOptions { image_path, build, signature })
    }

    /// What signs a file that was handed over: nothing else can be said of it.
    pub(super) fn of_descriptor(self) -> Result<Option<String>, InvalidArgument> {
        match self.given().find(|option| *option != SIGNATURE) {
            Some(option) => {
                Err(InvalidArgument(format!("option {option} does not go with a file that is handed over")))
            }
            None => self.signature.map(signature).transpose(),
        }
    }

    fn given(&self) -> impl Iterator<Item = &'static str> + use<> {
        let path = self.image_path.is_some().then_some("image-path");
        let signature = self.signature.is_some().then_some(SIGNATURE);
        self.build.first_given().into_iter().chain(path).chain(signature)
    }
}

/// Whether `option`, if it is one of [`IMAGE`], can be said of `image`.
pub(super) fn takes(image: &ImageReference, option: &str) -> bool {
    match (option, image) {
        (_, ImageReference::Git(_)) | (SIGNATURE, _) => true,
        ("image-path", ImageReference::Path(_) | ImageReference::Stored(_)) => false,
        ("image-path", _) => true,
        _ => !IMAGE.iter().any(|(name, _)| *name == option),
    }
}

/// Why an option of [`IMAGE`] cannot be said of an image.
pub(super) fn goes_with(option: &str) -> String {
    let forms = if option == "image-path" { CONTAINERS } else { REPOSITORIES };
    format!("option {option} of Deploy goes with {forms} only")
}

fn signature(text: String) -> Result<String, InvalidArgument> {
    if text.len() as u64 > signature::LONGEST
        || text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    {
        return Err(InvalidArgument::new("signature is not the text of a .minisig file"));
    }
    Ok(text)
}

fn refused(option: &'static str, why: String) -> Refusal {
    Refusal { option, entry: None, reason: InvalidArgument(why) }
}
