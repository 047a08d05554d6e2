//! Signatures of images: minisign's, by a key that the configuration names.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use minisign_verify::{Error as MinisignError, PublicKey, Signature, StreamVerifier};

/// Bytes of what minisign writes: two lines of base64, each below a comment.
pub const LONGEST: u64 = 4096;

const BUFFER: usize = 64 << 10;

/// A public key of minisign.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(PublicKey);

/// The text is not repeated: it may be a secret key that was taken for the public one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a public key of minisign: write the second line of its .pub file, which begins with RW and has 56 characters"
)]
pub struct InvalidKey;

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        PublicKey::from_base64(text.trim()).map(Self).map_err(|_| InvalidKey)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Why an image does not count as signed.
#[derive(Debug, thiserror::Error)]
pub enum Unsigned {
    #[error("what was given as its signature is not the text that minisign writes into a .minisig file")]
    Malformed,
    #[error(
        "its signature is of minisign's old kind, over the file itself: sign it again with minisign 0.10 or later, without -l"
    )]
    Legacy,
    #[error("it is signed with a key that is none of images.keys")]
    OtherKey,
    #[error(
        "its signature is of something else: it was changed after it was signed, or the signature is another file's"
    )]
    Altered,
    #[error("it could not be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// Reads an image to its end and returns the comment that was signed with it. Blocks.
///
/// # Errors
/// None of `keys` has signed it.
pub fn verify(mut image: impl Read, signature: &str, keys: &[Key]) -> Result<String, Unsigned> {
    let signature = Signature::decode(signature).map_err(|_| Unsigned::Malformed)?;
    let mut verifiers = verifiers(&signature, keys)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match image.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => verifiers.iter_mut().for_each(|one| one.update(buffer.get(..count).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let signed = verifiers.iter_mut().any(|one| one.finalize().is_ok());
    if signed { Ok(signature.trusted_comment().to_owned()) } else { Err(Unsigned::Altered) }
}

/// One for each key that the signature says it is by: as good as always one. It only says so until the image was read.
fn verifiers<'a>(signature: &'a Signature, keys: &'a [Key]) -> Result<Vec<StreamVerifier<'a>>, Unsigned> {
    let mut verifiers = Vec::new();
    for key in keys {
        match key.0.verify_stream(signature) {
            Ok(verifier) => verifiers.push(verifier),
            Err(MinisignError::UnsupportedLegacyMode) => return Err(Unsigned::Legacy),
            Err(_) => {}
        }
    }
    if verifiers.is_empty() { Err(Unsigned::OtherKey) } else { Ok(verifiers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By minisign 0.11, of `hello\n`.
    const KEY: &str = "RWShCiDeO43pLx53fHkyzTrs07sbnQivdhPaCKuL7SkxPtcC6VBxRaW8";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
        RUShCiDeO43pL4QH3iAd+QxVlHSAJpdvF4ELF0rZZW23cbJ2ENWCeoFUtpmJTChWecIlGC936Q9l/O0T+ubVCXU4UxHo+6BIbgo=\n\
        trusted comment: timestamp:1795405327\tfile:f\thashed\n\
        o+kPn1kKpq8dgqG47czJKFplrtF7ywG+dB2P7iDVR15pB9A0OOn0lbn1DGik4VgZ7kb3yACPoRcbWPW81YSaAw==";
    const LEGACY: &str = "untrusted comment: signature from minisign secret key\n\
        RWShCiDeO43pL4eJVoD0xe4Gv8yjH1FlghRkuXTePxcMzyRJTZgDq+KSHXRyizOjvqq7hcey2upj5B9w5YDXs7t7esqWmdYlpQA=\n\
        trusted comment: timestamp:1795405327\tfile:f\n\
        eQ4zSNAxxm+eG7gpexNZP1f2xzJw51N6Ster/mNPbM0WbprtL8qCtpelqC38qkqFKSAcXmtyk24W/RICFG/QDA==";
    const OTHER_KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn keys(texts: &[&str]) -> Vec<Key> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_signature_is_of_its_key_and_its_bytes() {
        for good in [keys(&[KEY]), keys(&[OTHER_KEY, KEY]), keys(&[KEY, KEY, OTHER_KEY])] {
            assert_eq!(verify(&b"hello\n"[..], SIGNATURE, &good).unwrap(), "timestamp:1795405327\tfile:f\thashed");
        }
        let refused =
            |image: &[u8], signature: &str, names: &[&str]| verify(image, signature, &keys(names)).unwrap_err();
        assert!(matches!(refused(b"hello!\n", SIGNATURE, &[KEY]), Unsigned::Altered));
        assert!(matches!(refused(b"", SIGNATURE, &[KEY]), Unsigned::Altered));
        assert!(matches!(refused(b"hello\n", SIGNATURE, &[OTHER_KEY]), Unsigned::OtherKey));
        assert!(matches!(refused(b"hello\n", SIGNATURE, &[]), Unsigned::OtherKey));
        assert!(matches!(refused(b"hello\n", LEGACY, &[KEY]), Unsigned::Legacy));
        let comment = SIGNATURE.replace("file:f", "file:g");
        assert!(matches!(refused(b"hello\n", &comment, &[KEY]), Unsigned::Altered), "the comment is signed as well");
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let lines = SIGNATURE.lines().collect::<Vec<_>>();
        for text in ["", "x", "\n\n\n\n", lines[1], &lines[..3].join("\n"), &SIGNATURE.replace("trusted comment: ", "")]
        {
            assert!(matches!(verify(&b""[..], text, &keys(&[KEY])), Err(Unsigned::Malformed)), "{text}");
        }
        let windows = SIGNATURE.replace('\n', "\r\n");
        assert!(verify(&b"hello\n"[..], &windows, &keys(&[KEY])).is_ok());
    }

    #[test]
    fn keys_are_what_minisign_writes() {
        assert!(format!(" {KEY}\n").parse::<Key>().is_ok());
        let secret = "RWRTY0IyXkCAyfMWWi8yGQ==";
        let cut = &KEY[..50];
        for text in ["", "key", secret, cut, "untrusted comment: minisign public key 2FE98D3BDE200AA1", &KEY.repeat(2)]
        {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }
}
