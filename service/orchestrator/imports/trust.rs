//! Whether an image may be used: where the configuration has keys, one of them must have signed it.
//!
//! Every call that names an image is asked, also one that names an image of the store: keys come and go. What runs already,
//! or did, is not: a Restart, a Rollback, the chain before, and the members that an Apply makes of what it has imported.

use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::Imported;
use crate::domain::{Caller, ImageDigest, ImageOptions, ImageReference};
use crate::images;
use crate::images::signature::{self, Unsigned};

/// What a call says of who signed its image.
#[derive(Debug, Default)]
pub(super) struct Claim {
    /// What minisign wrote.
    signature: Option<String>,
    /// Where else than in option signature it would be found.
    place: Option<String>,
}

impl Claim {
    /// Of a file that was handed over there is nothing but the option.
    pub(super) fn by_option(signature: Option<String>) -> Self {
        Self { signature, place: None }
    }

    /// What the option says; else, of a file of this host, what stands beside it, read with the caller's rights. What stands
    /// beside a unikernel in a container image a worker tells ([`super::Told`]).
    pub(super) async fn of(context: &Context, image: &ImageReference, options: &ImageOptions, caller: &Caller) -> Self {
        let mut claim = Self { signature: options.signature.clone(), place: place(image, options) };
        if context.config.get().images.keys.is_empty() || claim.signature.is_some() {
            return claim;
        }
        if let ImageReference::Path(path) = image {
            match images::read_as(beside(path), caller, signature::LONGEST).await {
                Ok(text) => claim.signature = Some(String::from_utf8_lossy(&text).into_owned()),
                // It need not be there, or it may not be read: who finds no other signature says so.
                Err(error) => claim.place = Some(format!("beside it ({error})")),
            }
        }
        claim
    }
}

fn place(image: &ImageReference, options: &ImageOptions) -> Option<String> {
    match image {
        ImageReference::Stored(_) => None,
        ImageReference::Path(path) => Some(format!("beside it, as {}", beside(path).display())),
        _ => options.image_paths().first().map(|path| format!("beside it in the image, as {path}.minisig")),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// The image as it may be used. One that may not goes again, where this call brought it.
pub(super) async fn verified(
    context: &Context,
    imported: Imported,
    claim: Claim,
    job: &Job,
) -> Result<Imported, Error> {
    if context.config.get().images.keys.is_empty() {
        return Ok(imported);
    }
    job.detail("verifying").await;
    let mut imported = imported;
    match judge(context, &imported, claim).await {
        Ok(signed) => {
            job.log(&format!("the image is signed, with the comment {}", signed.comment));
            imported.record.signature = Some(signed.signature);
            Ok(imported)
        }
        Err(error) => {
            imported.give_back(context).await;
            Err(error)
        }
    }
}

struct Signed {
    signature: String,
    comment: String,
}

/// The same bytes are the same image, wherever they come from: what signed it before counts too, but not where the call
/// itself says what does.
async fn judge(context: &Context, imported: &Imported, claim: Claim) -> Result<Signed, Error> {
    let found = [imported.told.signature.clone(), imported.record.signature.clone()];
    let signatures = claim.signature.map_or_else(|| found.into_iter().flatten().collect(), |given| vec![given]);
    let mut outcome = Err(missing(claim.place).into());
    for signature in signatures {
        outcome = by(context, imported.record.digest, signature).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn by(context: &Context, digest: ImageDigest, signature: String) -> Result<Signed, Error> {
    // The copy in the store: whatever becomes of the source, it is what runs.
    let (file, _) = context.store.open_stored(digest).await?;
    let (text, config) = (signature.clone(), context.config.get());
    let verified = spawn_blocking(move || signature::verify(file, &text, &config.images.keys))
        .await
        .map_err(|_| Error::Stopping)?;
    let comment = verified.map_err(|why| unsigned(digest, &why))?;
    Ok(Signed { signature, comment })
}

fn missing(place: Option<String>) -> images::Error {
    let places = place.map_or_else(|| "in option signature".into(), |place| format!("{place}, or in option signature"));
    images::Error::Invalid(format!(
        "the image has no signature, and images.keys of the configuration asks for one: sign it with \
         `minisign -Sm unikernel.hvt`, and give what that writes into unikernel.hvt.minisig {places}"
    ))
}

fn unsigned(digest: ImageDigest, why: &Unsigned) -> images::Error {
    match why {
        Unsigned::Unreadable(_) => images::Error::Unavailable(format!("the stored image {digest}: {why}")),
        _ => images::Error::Invalid(format!(
            "the image {digest} is not signed as images.keys of the configuration asks for: {why}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(image: &str) -> String {
        missing(place(&image.parse().unwrap(), &ImageOptions::default())).to_string()
    }

    #[test]
    fn who_has_not_signed_is_told_where_the_signature_goes() {
        assert!(said("/srv/web.hvt").contains("beside it, as /srv/web.hvt.minisig, or in option signature"));
        let saved = said("docker-archive:/srv/web.tar");
        assert!(saved.contains("in the image, as /unikernel.hvt.minisig, or in option signature"), "{saved}");
        let stored = said(&format!("sha256:{}", "0".repeat(64)));
        assert!(stored.ends_with("into unikernel.hvt.minisig in option signature"), "{stored}");
        assert!(stored.contains("`minisign -Sm unikernel.hvt`") && stored.contains("images.keys"), "{stored}");
    }
}
