//! Images that are built from a repository.
//!
//! ```text
//! reference ── resolve ──► commit ── known, and its image is stored ──────────────────────────────────► the store
//!                                 └─ git fetch ── tar ──► engine: build ── tar ──► the one file in it ──┘
//! ```
//!
//! A repository of this host is read by a worker beside, that has the caller's rights; git speaks with it over a socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tracing::info;

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::super::owner::State;
use super::chain::{Link, ask};
use super::workshop::Folder;
use super::{Imported, engine, hold, wanted};
use crate::config::Git;
use crate::domain::{
    Build, BuildKey, BuildOptions, Caller, CommitId, GitSource, ImageOptions, ImagePath, ImageRecord, ImageReference,
    Origin, Recipe,
};
use crate::images;
use crate::images::engine::Dockerfile;
use crate::images::git::{Access, Remote, Request};
use crate::images::recipe::{self, Caches};
use crate::images::worker::{Assignment, Task};
use crate::planning::builds;

/// One call's repository.
struct Repository<'a> {
    context: &'a Context,
    source: GitSource,
    caller: Caller,
    job: &'a Job,
}

pub(super) async fn import(
    context: &Context,
    source: GitSource,
    options: &ImageOptions,
    caller: &Caller,
    job: &Job,
) -> Result<Imported, Error> {
    // Every call about a repository has them.
    let build = options.build.as_ref().ok_or(Error::Defect)?;
    let repository = Repository { context, source, caller: caller.clone(), job };
    repository.look().await?;
    let commit = repository.resolve().await?;
    let key = recipe::key(&repository.source.url, build, &commit, &context.config.get().build.bases);
    // Whoever comes while it is built waits, and finds it done.
    let _claim = tokio::select! {
        biased;
        () = job.cancelled() => return Err(Error::Cancelled),
        claim = context.claims.claim_build_in_turn(key) => claim,
    };
    let url = &repository.source.url;
    let signature_sought = wanted(context, options).signature;
    if let Some(mut built) = built(context, key, signature_sought).await? {
        let image = built.record.digest;
        info!(%commit, repository = %url, %image, "commit {commit} of {repository} was built before: {image}", repository = url);
        job.log(&format!("{commit} was built before: {}", built.record.digest));
        built.told.meant = Some(commit.to_string());
        return Ok(built);
    }
    let _slot = tokio::select! {
        biased;
        () = job.cancelled() => return Err(Error::Cancelled),
        slot = context.sources.build_slots.acquire() => slot.map_err(|_| Error::Stopping)?,
    };
    info!(%commit, repository = %url, "building an image of commit {commit} of {repository}", repository = url);
    let mut imported = repository.build(&commit, build, options).await?;
    imported.told.meant = Some(commit.to_string());
    let (image, url) = (imported.record.digest, url.clone());
    let meant = imported.told.meant.clone();
    let origin = Origin {
        image: ImageReference::Git(repository.source.clone()),
        options: options.clone(),
        caller: caller.clone(),
        meant,
    };
    let signature = imported.record.signature.clone().or_else(|| imported.told.signature.clone());
    // Whoever is told that it was built before gets it without those who have built it.
    let record = ImageRecord { origin: Some(Box::new(origin)), signature, ..imported.record.clone() };
    let remember = move |state: &State| {
        let done = Build { key, image, url, commit, at: state.world.next_ordinal(), signature_sought };
        Ok((builds::remember(&state.world, done, record), ()))
    };
    match context.owner.decide(remember).await {
        Ok(()) => {
            // It stays, whatever becomes of this call, until something collects it.
            imported.brought = false;
            Ok(imported)
        }
        Err(error) => {
            imported.drop_unused(context).await?;
            Err(error)
        }
    }
}

fn access(git: &Git) -> Access {
    let Git { ssh_key, known_hosts, certificates } = git.clone();
    Access { ssh_key, known_hosts, certificates }
}

/// What came of the same build before, where it is still whole, and was looked through for a signature if one is sought.
async fn built(context: &Context, key: BuildKey, signature_sought: bool) -> Result<Option<Imported>, Error> {
    let is_enough = move |build: &&Build| build.signature_sought || !signature_sought;
    let image = move |state: &State| state.world.build(&key).filter(is_enough).map(|build| build.image);
    let image = context.owner.look(image).await?;
    let Some(image) = image else { return Ok(None) };
    let held = async {
        if !context.store.verify(image).await? {
            return Err(images::Error::NotStored(image).into());
        }
        hold(context, context.store.record(image).await?).await
    };
    match held.await {
        Ok(imported) => Ok(Some(imported)),
        // It is built again, and so put in its place.
        Err(Error::Image(images::Error::NotStored(_))) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Repository<'_> {
    /// That the caller may look into one of this host, also where what it asks for was built before.
    async fn look(&self) -> Result<(), Error> {
        if let Some(path) = self.source.url.path() {
            images::open_folder_as(path.to_owned(), &self.caller).await?;
        }
        Ok(())
    }

    async fn resolve(&self) -> Result<CommitId, Error> {
        // A repository of this host is asked in any case: whether the caller may read it, also what was built before.
        let commit = self.source.reference.as_ref().and_then(|reference| reference.commit());
        if let Some(commit) = commit.filter(|_| self.source.url.path().is_none()) {
            return Ok(commit);
        }
        let folder = Folder::create(&self.context.sources.workshop).await?;
        let answer = match self.spoken_with(Request::Resolve(self.remote(folder.path()))) {
            Ok(links) => ask(self.context, links, self.job).await,
            Err(error) => Err(error),
        };
        folder.remove().await;
        // It comes from a process that has read what strangers wrote.
        answer?.parse().map_err(|_| Error::Defect)
    }

    async fn build(&self, commit: &CommitId, build: &BuildOptions, options: &ImageOptions) -> Result<Imported, Error> {
        let folder = Folder::create(&self.context.sources.workshop).await?;
        let request = Request::Fetch { remote: self.remote(folder.path()), commit: commit.clone() };
        let imported = match self.spoken_with(request) {
            Ok(fetch) => {
                let wanted = wanted(self.context, options);
                engine::build(self.context, fetch, self.dockerfile(build), wanted, self.job).await
            }
            Err(error) => Err(error),
        };
        folder.remove().await;
        imported
    }

    fn remote(&self, directory: &Path) -> Remote {
        Remote {
            url: self.source.url.clone(),
            reference: self.source.reference.clone(),
            directory: directory.to_owned(),
            access: access(&self.context.config.get().git),
        }
    }

    /// The worker that runs git, and the one that reads the repository where that is on this host.
    fn spoken_with(&self, request: Request) -> Result<Vec<Link>, Error> {
        let git = Link::from(Task::Git(request));
        let Some(path) = self.source.url.path() else { return Ok(vec![git]) };
        let what = || "make a pair of sockets".to_owned();
        let (one, other) = UnixStream::pair().map_err(|error| images::Error::Io { what: what(), error })?;
        let serve = Task::Git(Request::Serve { repository: path.to_owned() });
        let serve = Link::unseen(Assignment { task: serve, caller: Some(self.caller.clone()) });
        Ok(vec![serve.reading(OwnedFd::from(one)), git.reading(OwnedFd::from(other))])
    }

    fn dockerfile(&self, build: &BuildOptions) -> Dockerfile {
        let config = self.context.config.get();
        let bases = &config.build.bases;
        match (&build.recipe, build.image_paths().first()) {
            (Recipe::Dockerfile(path), _) => Dockerfile::OfContext(path.to_string()),
            (Recipe::Mirage(mirage), path) => {
                let path = path.cloned().unwrap_or_else(|| ImagePath::default_of(mirage.target));
                let text = |caches| recipe::dockerfile(mirage, &path, bases, caches);
                let caches = Caches { repository: &self.source.url, secret: &self.context.sources.secret };
                Dockerfile::Text { with_caches: text(Some(caches)), plain: text(None) }
            }
        }
    }
}
