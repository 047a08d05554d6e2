//! What is said in Albatross's words, and in those of people.

use albatross_deployer::albatross::wire::Message;
use albatross_deployer::bus::arguments;
use albatross_deployer::domain::ImageReference;

use super::is_fit_to_be_shown;

/// Bytes behind a length of four bytes, which is not looked at. What is read as a message says the same when it is written
/// and read again.
pub fn albatross_frame(data: &[u8]) -> bool {
    let Some(bytes) = data.get(4..) else { return false };
    match Message::decode(bytes) {
        Ok(message) => {
            let Ok(frame) = message.encode() else { return false };
            assert_eq!((frame.image_length, frame.tail.len()), (0, 0));
            assert_eq!(Message::decode(&frame.head[4..]).as_ref(), Ok(&message));
            true
        }
        Err(error) => {
            is_fit_to_be_shown(&error.to_string());
            false
        }
    }
}

/// TOML: a stack, or why it is none.
pub fn stack_manifest(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match arguments::manifest(text) {
        Ok(manifest) => {
            assert!(!manifest.members.is_empty());
            true
        }
        Err(error) => {
            is_fit_to_be_shown(&error.to_string());
            false
        }
    }
}

/// A reference that is taken is written as one that is the same.
pub fn image_reference(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match text.parse::<ImageReference>() {
        Ok(reference) => {
            assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
            true
        }
        Err(error) => {
            assert!(error.to_string().len() < 4000, "{error}");
            false
        }
    }
}
