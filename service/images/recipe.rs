//! The Dockerfile that builds a unikernel with Mirage 3 or 4: a pure function of the options.
//!
//! The engine gets the commit's tree as the context, and this text. In the first stage:
//!
//! ```text
//! base image ─ opam repository ─ mirage ─ config file ─ extra instructions ─ configure ─ dependencies   (layers that
//!                                                                                                 the engine keeps)
//!            ─ the whole tree ─ configure ─ build ─ the one unikernel
//! ```
//!
//! and the second one holds nothing but the unikernel. The dependencies come before the tree, so that a commit that
//! changes only the unikernel's own code does not build them again.
//!
//! Nothing of the options can add an instruction: paths and names are of plain characters by their types, an argument
//! stands in single quotes and holds no control character, and an extra instruction is checked to be one line.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::domain::{
    BuildKey, BuildOptions, CommitId, GitUrl, ImageName, ImagePath, MirageRecipe, MirageVersion, Recipe,
};

/// The images in which unikernels are built, the defaults where none is said. They are Debian's or Ubuntu's, with opam
/// as ocaml/opam sets it up: the user 1000 in /home/opam, and the opam repository in /home/opam/opam-repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseImages {
    pub mirage_3: Option<ImageName>,
    pub mirage_4: Option<ImageName>,
}

impl BaseImages {
    /// Mirage 3 takes no newer OCaml; the names are whole, since Podman asks for the registry of short ones.
    pub const DEFAULT_MIRAGE_3: &str = "docker.io/ocaml/opam:ubuntu-20.04-ocaml-4.11";
    pub const DEFAULT_MIRAGE_4: &str = "docker.io/ocaml/opam:debian-12-ocaml-4.14";

    fn of(&self, version: MirageVersion) -> String {
        let (image, default) = match version {
            MirageVersion::Three => (&self.mirage_3, Self::DEFAULT_MIRAGE_3),
            MirageVersion::Four => (&self.mirage_4, Self::DEFAULT_MIRAGE_4),
        };
        image.as_ref().map_or_else(|| default.to_owned(), ToString::to_string)
    }
}

/// The stage of the build, its home, and the tree in it.
const STAGE: &str = "build";
const HOME: &str = "/home/opam";
const TREE: &str = "/home/opam/repo";
/// Where the first stage leaves the unikernel for the second.
const RESULT: &str = "/home/opam/unikernel";

/// Whose the caches of a build are. Repositories share none, since a build believes what its cache says.
#[derive(Debug, Clone, Copy)]
pub struct Caches<'a> {
    pub repository: &'a GitUrl,
    /// Known to nobody who writes a Dockerfile: that could else name another's caches, and put something into them.
    pub secret: &'a str,
}

/// The text for `recipe`, which leaves the unikernel at `image_path`.
///
/// `caches`: where the engine mounts caches (BuildKit and Podman; Docker's classic builder refuses the word).
pub fn dockerfile(
    recipe: &MirageRecipe,
    image_path: &ImagePath,
    bases: &BaseImages,
    caches: Option<Caches<'_>>,
) -> String {
    let run = &caches.as_ref().map_or_else(|| "RUN".to_owned(), run_with_caches);
    let configure = &configure(recipe);
    let config_file = &recipe.config_file;
    let [mirage, build] = match recipe.version {
        MirageVersion::Three => ["opam depext -ui 'mirage<4.0.0' ocaml-freestanding", "mirage build"],
        MirageVersion::Four => ["opam install 'mirage>=4.0.0' opam-monorepo ocaml-solo5", "make build"],
    };
    let mut lines = beginning(recipe, bases);
    lines.push(format!("{run} {mirage}"));
    lines.push(format!("COPY --chown=1000:1000 {config_file} {TREE}/{config_file}"));
    lines.extend(recipe.extra_instructions.iter().map(|instruction| instruction.as_str().to_owned()));
    lines.push(format!("{run} {configure}"));
    lines.push(format!("{run} opam exec -- make depends"));
    lines.push(format!("COPY --chown=1000:1000 . {TREE}"));
    // Once more, with the whole tree to look at.
    lines.push(format!("{run} {configure}"));
    lines.push(format!("{run} opam exec -- {build}"));
    lines.push(format!("RUN {}", take_out(recipe)));
    lines.push("FROM scratch".to_owned());
    lines.push(format!("COPY --from={STAGE} {RESULT} {image_path}"));
    lines.join("\n") + "\n"
}

/// The image, opam and its repository, and the folder in which the rest goes on.
fn beginning(recipe: &MirageRecipe, bases: &BaseImages) -> Vec<String> {
    let folder = recipe.config_file.split().0.map_or_else(|| TREE.to_owned(), |folder| format!("{TREE}/{folder}"));
    let mut lines = vec![
        format!("FROM {} AS {STAGE}", bases.of(recipe.version)),
        "USER 1000:1000".to_owned(),
        // A cache is another file system: dune cannot link into it.
        "ENV OPAMYES=1 OPAMCONFIRMLEVEL=unsafe-yes DUNE_CACHE=enabled DUNE_CACHE_STORAGE_MODE=copy".to_owned(),
        // WORKDIR, and a cache in a folder that is not there, would make folders that are root's.
        format!("RUN mkdir -p {HOME}/.cache {HOME}/.opam/download-cache {folder}"),
        "RUN sudo apt-get update && sudo apt-get install -y m4 pkg-config".to_owned(),
    ];
    if recipe.version == MirageVersion::Four {
        // What mirage 4 writes into its Makefile needs opam 2.1, which older images have beside 2.0.
        lines.push("RUN if test -x /usr/bin/opam-2.1; then sudo ln -f /usr/bin/opam-2.1 /usr/bin/opam; fi".to_owned());
    }
    if let Some(commit) = &recipe.opam_repository {
        lines.push(format!(
            "RUN cd {HOME}/opam-repository && git fetch --depth 1 origin {commit} && git reset --hard {commit} && opam update"
        ));
    }
    // Mirage 3 looks for everything beside its file; 4 makes the folder it is called in the root of the dune project.
    let workdir = if recipe.version == MirageVersion::Three { folder.as_str() } else { TREE };
    lines.push(format!("WORKDIR {workdir}"));
    lines
}

fn configure(recipe: &MirageRecipe) -> String {
    let file = match recipe.version {
        MirageVersion::Three => recipe.config_file.split().1,
        MirageVersion::Four => recipe.config_file.as_str(),
    };
    let mut command = format!("opam exec -- mirage configure -f {file} -t {}", recipe.target.as_str());
    for argument in &recipe.arguments {
        command.push(' ');
        command.push_str(&quoted(argument.as_str()));
    }
    command
}

/// One word of a shell, whatever it holds. It ends with a quote, and so not with the backslash that would make a
/// Dockerfile go on in the next line.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Its name is the configuration's to choose: it is the only one of its kind.
fn take_out(recipe: &MirageRecipe) -> String {
    let target = recipe.target.as_str();
    let files = match (recipe.version, recipe.config_file.split().0) {
        (MirageVersion::Three, _) => format!("./*.{target}"),
        (MirageVersion::Four, Some(folder)) => format!("{folder}/dist/*.{target}"),
        (MirageVersion::Four, None) => format!("dist/*.{target}"),
    };
    format!(
        "set -- {files}; if test $# -eq 1 && test -f \"$1\"; then cp \"$1\" {RESULT}; \
         else echo \"the build made not one unikernel but: $*\" >&2; exit 1; fi"
    )
}

/// Downloads of opam, and in .cache those of opam-monorepo and what dune has built.
fn run_with_caches(Caches { repository, secret }: &Caches<'_>) -> String {
    let whose = hex(&Sha256::digest(format!("{secret} {repository}"))).chars().take(32).collect::<String>();
    let mut run = "RUN".to_owned();
    for (name, folder) in [("opam", ".opam/download-cache"), ("build", ".cache")] {
        // Writing to a String cannot fail.
        let _ = write!(run, " --mount=type=cache,id=albatross-{name}-{whose},target={HOME}/{folder},uid=1000,gid=1000");
    }
    run
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is the same for two calls whose builds would do the same: the repository, the commit, all that is done with it, and
/// where the result is looked for. A commit's name says what is in it, but not who may read it, nor what a build has found
/// in the repository's caches.
pub fn key(repository: &GitUrl, options: &BuildOptions, commit: &CommitId, bases: &BaseImages) -> BuildKey {
    let paths = options.image_paths();
    let recipe = match &options.recipe {
        Recipe::Dockerfile(path) => format!("dockerfile {path}"),
        Recipe::Mirage(recipe) => paths.first().map(|path| dockerfile(recipe, path, bases, None)).unwrap_or_default(),
    };
    let mut hash = Sha256::new();
    for part in [repository.as_str(), commit.as_str(), &recipe].into_iter().chain(paths.iter().map(ImagePath::as_str)) {
        // With its length, no part can be taken for the end of the one before.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    BuildKey(hash.finalize().into())
}

#[cfg(test)]
mod tests;
