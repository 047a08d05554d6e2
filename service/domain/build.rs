//! How an image is built from a repository: the options of the `git+` forms, checked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::container::ImagePath;
use super::image::ImageDigest;
use super::names::InvalidName;
use super::ordinal::Ordinal;
use super::repository::{CommitId, GitUrl, RepositoryPath};

/// Which `mirage` makes the unikernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MirageVersion {
    #[serde(rename = "3")]
    Three,
    #[serde(rename = "4")]
    Four,
}

/// The tender for which the unikernel is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Hvt,
    Spt,
}

impl Target {
    /// What `mirage configure -t` takes, and the ending of what it makes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hvt => "hvt",
            Self::Spt => "spt",
        }
    }

    /// The path says it: there is no other word for it in the contract.
    fn of(path: Option<&ImagePath>) -> Self {
        if path.is_some_and(|path| path.as_str().ends_with(".spt")) { Self::Spt } else { Self::Hvt }
    }
}

/// One argument of `mirage configure`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MirageArgument(String);

/// One instruction of a Dockerfile, on one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Instruction(String);

/// What a text of many words is not. The words are not repeated: they can hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidText(&'static str);

/// Gives a text of many words its `FromStr`, `Display` and serde form.
macro_rules! checked_text {
    ($name:ident, $rule:path) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidText;
            fn from_str(text: &str) -> Result<Self, InvalidText> {
                $rule(text).map_or_else(|| Ok(Self(text.into())), |why| Err(InvalidText(why)))
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidText;
            fn try_from(text: String) -> Result<Self, InvalidText> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(text: $name) -> String {
                text.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(MirageArgument, wrong_with_argument);
checked_text!(Instruction, wrong_with_instruction);

/// Bytes.
const MAX_TEXT: usize = 4096;
/// Arguments, and instructions, of one build.
const MAX_TEXTS: usize = 128;
/// Bytes of both together: they stand in what a worker is told several times.
const MAX_BYTES: usize = 128 << 10;

fn wrong_with_argument(text: &str) -> Option<&'static str> {
    let name = text.strip_prefix("--").map(|long| long.split_once('=').map_or(long, |(name, _)| name));
    // mirage takes the beginning of a long name for the whole one.
    let sets = |option: &str| name.is_some_and(|name| !name.is_empty() && option.starts_with(name));
    let sets_short = |letter: char| text.strip_prefix('-').is_some_and(|rest| rest.starts_with(letter));
    if text.is_empty() || text.len() > MAX_TEXT || text.contains(char::is_control) {
        return Some("is not 1 to 4096 bytes without control characters");
    }
    if sets_short('t') || sets("target") {
        return Some("sets the target, which image-path says: one that ends with .spt for spt, any other for hvt");
    }
    (sets_short('f') || sets("file")).then_some("sets the configuration's file: say it with config-file")
}

/// Those that add to a stage. The others would begin one, end one, or say how the result runs, which is no container.
const INSTRUCTIONS: [&str; 5] = ["RUN", "ENV", "ARG", "COPY", "ADD"];

fn wrong_with_instruction(text: &str) -> Option<&'static str> {
    let (instruction, rest) = text.split_once(' ').unwrap_or((text, ""));
    if text.len() > MAX_TEXT || text.contains(char::is_control) {
        return Some("is not one line of at most 4096 bytes without control characters");
    }
    if !INSTRUCTIONS.iter().any(|known| known.eq_ignore_ascii_case(instruction)) || rest.trim().is_empty() {
        return Some("is not RUN, ENV, ARG, COPY or ADD with what it is about");
    }
    if text.trim_end().ends_with('\\') || text.contains("<<") {
        return Some(
            "would go on in the next line, which is another's: write it in one, without \\ at its end and without <<",
        );
    }
    None
}

/// The options of the `git+` forms as they are written, `None` where they are not.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct BuildRequest {
    pub mirage: Option<String>,
    pub config_file: Option<String>,
    pub mirage_args: Option<Vec<String>>,
    pub extra_instructions: Option<Vec<String>>,
    pub opam_repository_commit: Option<String>,
    pub dockerfile: Option<String>,
}

impl BuildRequest {
    /// The first of the options that are given.
    pub fn first_given(&self) -> Option<&'static str> {
        self.dockerfile.is_some().then_some("dockerfile").or_else(|| self.of_recipe())
    }

    /// The first of the options that are given and go with a recipe.
    fn of_recipe(&self) -> Option<&'static str> {
        let given = [
            ("mirage", self.mirage.is_some()),
            ("config-file", self.config_file.is_some()),
            ("mirage-args", self.mirage_args.is_some()),
            ("extra-instructions", self.extra_instructions.is_some()),
            ("opam-repository-commit", self.opam_repository_commit.is_some()),
        ];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }
}

/// How a commit becomes a unikernel, and where in the result it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BuildOptions {
    pub recipe: Recipe,
    /// As it was asked for; see [`Self::image_paths`].
    pub image_path: Option<ImagePath>,
}

/// What the engine is told to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// What this file of the repository says.
    Dockerfile(RepositoryPath),
    Mirage(MirageRecipe),
}

/// What `mirage` is told to make.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MirageRecipe {
    pub version: MirageVersion,
    pub target: Target,
    pub config_file: RepositoryPath,
    pub arguments: Vec<MirageArgument>,
    /// Carried out before the unikernel is configured.
    pub extra_instructions: Vec<Instruction>,
    /// The packages are those that the base image knows where it is not said.
    pub opam_repository: Option<CommitId>,
}

/// Why options of a build were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBuild {
    #[error("{0} goes with a recipe for Mirage, and dockerfile builds without one: give one of them")]
    Conflict(&'static str),
    #[error("mirage is {0:?}: it can be 3 or 4")]
    Version(String),
    #[error("{0}: {1}")]
    Name(&'static str, InvalidName),
    /// With its number, from 1.
    #[error("{0}: number {1} {2}")]
    Text(&'static str, usize, InvalidText),
    #[error("{0} has more than {MAX_TEXTS} entries")]
    TooMany(&'static str),
    /// How many, never what they are: they can hold secrets.
    #[error("mirage-args and extra-instructions are {0} bytes together: at most {MAX_BYTES} can be")]
    TooLong(usize),
}

impl InvalidBuild {
    /// The option that is to be changed.
    pub fn option(&self) -> &'static str {
        match self {
            Self::Version(_) => "mirage",
            Self::TooLong(_) => "mirage-args",
            Self::Conflict(option) | Self::Name(option, _) | Self::Text(option, _, _) | Self::TooMany(option) => option,
        }
    }
}

impl BuildOptions {
    /// What `request` asks for, with the defaults of the contract where nothing is written.
    pub fn new(request: BuildRequest, image_path: Option<ImagePath>) -> Result<Self, InvalidBuild> {
        let recipe = match &request.dockerfile {
            Some(dockerfile) => match request.of_recipe() {
                Some(option) => return Err(InvalidBuild::Conflict(option)),
                None => Recipe::Dockerfile(name("dockerfile", dockerfile)?),
            },
            None => Recipe::Mirage(mirage(request, Target::of(image_path.as_ref()))?),
        };
        Ok(Self { recipe, image_path })
    }

    /// Where the unikernel is looked for in the result, first to last. A recipe puts it at the first.
    pub fn image_paths(&self) -> Vec<ImagePath> {
        match (&self.image_path, &self.recipe) {
            (Some(path), _) => vec![path.clone()],
            (None, Recipe::Dockerfile(_)) => ImagePath::defaults().into(),
            (None, Recipe::Mirage(recipe)) => vec![ImagePath::default_of(recipe.target)],
        }
    }
}

impl ImagePath {
    /// Where a unikernel is looked for when nobody says it, first to last.
    pub fn defaults() -> [Self; 2] {
        [Self::default_of(Target::Hvt), Self::default_of(Target::Spt)]
    }
}

fn mirage(request: BuildRequest, target: Target) -> Result<MirageRecipe, InvalidBuild> {
    let version = match request.mirage.as_deref() {
        Some("3") => MirageVersion::Three,
        Some("4") | None => MirageVersion::Four,
        Some(other) => return Err(InvalidBuild::Version(other.chars().take(20).collect())),
    };
    let bytes = request.mirage_args.iter().chain(&request.extra_instructions).flatten().map(String::len).sum();
    if bytes > MAX_BYTES {
        return Err(InvalidBuild::TooLong(bytes));
    }
    let commit = request.opam_repository_commit.map(|text| name("opam-repository-commit", &text));
    Ok(MirageRecipe {
        version,
        target,
        config_file: name("config-file", request.config_file.as_deref().unwrap_or("config.ml"))?,
        arguments: texts("mirage-args", request.mirage_args)?,
        extra_instructions: texts("extra-instructions", request.extra_instructions)?,
        opam_repository: commit.transpose()?,
    })
}

fn name<T: FromStr<Err = InvalidName>>(option: &'static str, text: &str) -> Result<T, InvalidBuild> {
    text.parse().map_err(|error| InvalidBuild::Name(option, error))
}

fn texts<T>(option: &'static str, texts: Option<Vec<String>>) -> Result<Vec<T>, InvalidBuild>
where
    T: FromStr<Err = InvalidText>,
{
    let texts = texts.unwrap_or_default();
    if texts.len() > MAX_TEXTS {
        return Err(InvalidBuild::TooMany(option));
    }
    let checked = texts.iter().zip(1..);
    checked.map(|(text, number)| text.parse().map_err(|error| InvalidBuild::Text(option, number, error))).collect()
}

/// Names one build: what is built once is there for every later call with the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildKey(pub [u8; 32]);

/// What is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a build is named by 64 hexadecimal digits")]
pub struct InvalidKey;

impl TryFrom<String> for BuildKey {
    type Error = InvalidKey;
    fn try_from(text: String) -> Result<Self, InvalidKey> {
        let digest: ImageDigest = format!("sha256:{text}").parse().map_err(|_| InvalidKey)?;
        Ok(Self(digest.0))
    }
}

impl From<BuildKey> for String {
    fn from(key: BuildKey) -> String {
        key.to_string()
    }
}

/// A build that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Build {
    pub key: BuildKey,
    /// What came of it.
    pub image: ImageDigest,
    /// For people, with the commit: the key has both in it.
    pub url: GitUrl,
    pub commit: CommitId,
    /// The order in which builds were done: the first is forgotten first.
    pub at: Ordinal,
    /// Whether it was looked for what signs it: without keys in the configuration it is not.
    #[serde(default)]
    pub signature_sought: bool,
}

impl fmt::Display for BuildKey {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
