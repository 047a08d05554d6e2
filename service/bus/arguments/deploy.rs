//! Deploy and DeployImage.

use super::configuration::{DeployOptions, KNOWN};
use super::image_options::{IMAGE, Written};
use super::{InvalidArgument, Options, RawOptions, own_words, service};
use crate::domain::{Caller, ImageReference};
use crate::orchestrator::{DeployRequest, ImageSource};

/// The kernel's PATH_MAX.
const MAX_PATH: usize = 4096;

/// The `image` of Deploy. What is of this host is opened later, with no more rights than `caller` has.
pub fn image(text: &str, caller: Caller) -> Result<ImageSource, InvalidArgument> {
    let options = Box::default();
    Ok(ImageSource::Named { image: image_reference(text)?, options, caller })
}

pub(super) fn image_reference(text: &str) -> Result<ImageReference, InvalidArgument> {
    if text.len() > MAX_PATH {
        return Err(InvalidArgument(format!("image is {} bytes long: at most {MAX_PATH} can be a path", text.len())));
    }
    own_words(text)
}

/// A deployment, with the defaults of the contract where the caller did not choose.
pub fn deploy(name: &str, image: ImageSource, values: RawOptions) -> Result<DeployRequest, InvalidArgument> {
    let service = service(name)?;
    let mut options = Options::check("Deploy", values, &[KNOWN, IMAGE].concat())?;
    let said = Written::take(&mut options)?;
    let image = match image {
        ImageSource::Named { image, caller, .. } => {
            let options = Box::new(said.options(&image)?);
            ImageSource::Named { image, options, caller }
        }
        ImageSource::Descriptor { file, .. } => ImageSource::Descriptor { file, signature: said.of_descriptor()? },
        other => other,
    };
    let configuration = DeployOptions::take(&mut options)?.configuration()?;
    Ok(DeployRequest { service, image, configuration, stack: None, keeps: None })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zbus::Variant;

    use super::super::configuration::{MAX_ARGUMENT_BYTES, MAX_MEMORY};
    use super::super::tests::sent;
    use super::*;
    use crate::domain::{AddressChoice, Configuration, Readiness, RestartPolicy};

    fn with<const N: usize>(entries: [(&str, Variant<'static>); N]) -> Result<Configuration, InvalidArgument> {
        let caller = Caller { uid: 7, gid: 8, groups: vec![] };
        let request = deploy("website", image("/srv/web.hvt", caller).unwrap(), sent(entries));
        request.map(|request| request.configuration)
    }

    fn refused<const N: usize>(entries: [(&str, Variant<'static>); N]) -> String {
        with(entries).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_the_contracts() {
        let request = with([]).unwrap();
        assert_eq!((request.memory, request.cpu, request.timeout), (32, None, Duration::from_secs(30)));
        assert_eq!(request.restart, RestartPolicy::OnFailure(vec![]));
        assert_eq!((request.readiness, request.network, request.exclude), (Readiness::Running, None, vec![]));
        assert_eq!(request.address, AddressChoice::default());
        assert_eq!(request.check, None);
        assert_eq!(with([("check", 0u64.into())]).unwrap().check, None);
        let check = with([("ready", "http:80/".into()), ("check", 100u64.into())]).unwrap().check.unwrap();
        assert_eq!((check.interval, check.failures.get()), (Duration::from_millis(100), 3));
    }

    #[test]
    fn every_option_arrives() {
        let request = with([
            ("network", "br1".into()),
            ("memory", 64u64.into()),
            ("cpu", 3u32.into()),
            ("args", vec!["--ipv4={address}"].into()),
            ("prefix", "10.0.0.0/25".into()),
            ("exclude", vec!["10.0.0.1", "10.0.0.2-10.0.0.4"].into()),
            ("address", "10.0.0.9".into()),
            ("block-devices", vec![("storage", "data", 0u32), ("cache", "cache", 4096)].into()),
            ("restart", "on-failure".into()),
            ("restart-exit-codes", vec![3i32, 2, 3].into()),
            ("ready", "tcp:80".into()),
            ("timeout", 5u64.into()),
            ("check", 1000u64.into()),
            ("check-failures", 2u32.into()),
        ])
        .unwrap();
        assert_eq!(request.network.unwrap().as_str(), "br1");
        assert_eq!((request.memory, request.cpu, request.timeout), (64, Some(3), Duration::from_millis(5)));
        assert_eq!(request.arguments.0, ["--ipv4={address}"]);
        assert_eq!(request.address.prefix.unwrap().to_string(), "10.0.0.0/25");
        assert_eq!(request.address.address.unwrap().to_string(), "10.0.0.9");
        assert_eq!(request.exclude.len(), 2);
        assert_eq!(request.block_devices[0].sector_size, None);
        assert_eq!(request.block_devices[1].sector_size, Some(4096));
        assert_eq!(request.restart, RestartPolicy::OnFailure(vec![2, 3]));
        assert_eq!(request.readiness, Readiness::Tcp { port: 80 });
        let check = request.check.unwrap();
        assert_eq!((check.interval, check.failures.get()), (Duration::from_secs(1), 2));
        assert_eq!(with([("restart", "never".into())]).unwrap().restart, RestartPolicy::Never);
    }

    #[test]
    fn what_is_not_valid_is_refused_by_name() {
        for (entry, name) in [
            (("memory", Variant::from(0u64)), "memory"),
            (("memory", (MAX_MEMORY + 1).into()), "memory"),
            (("timeout", 0u64.into()), "timeout"),
            (("timeout", 3_600_001u64.into()), "timeout"),
            (("timeout", u64::MAX.into()), "timeout"),
            (("network", "br/0".into()), "network"),
            (("args", vec!["x"; 1025].into()), "args"),
            (("args", vec!["x".repeat(MAX_ARGUMENT_BYTES + 1)].into()), "args"),
            (("prefix", "10.0.0.0".into()), "prefix"),
            (("address", "10.0.0".into()), "address"),
            (("exclude", vec!["10.0.0.9-10.0.0.1"].into()), "exclude"),
            (("exclude", vec!["10.0.0.1"; 4097].into()), "exclude"),
            (("block-devices", vec![("", "b", 0u32)].into()), "block-devices"),
            (("block-devices", vec![("a", "b c", 0u32)].into()), "block-devices"),
            (("block-devices", vec![("a", "b", 513u32)].into()), "block-devices"),
            (("block-devices", vec![("a", "b", 0u32), ("a", "c", 0)].into()), "twice"),
            (("restart", "always".into()), "restart"),
            (("restart-exit-codes", vec![256i32].into()), "256"),
            (("restart-exit-codes", vec![2i32, 1].into()), "exits with 1"),
            (("restart-exit-codes", vec![64i32].into()), "exits with 64"),
            (("restart-exit-codes", Vec::<i32>::new().into()), "empty"),
            (("ready", "tcp:0".into()), "readiness"),
        ] {
            let message = refused([entry]);
            assert!(message.contains(name) && message.len() < 400, "{message}");
        }
        assert!(refused([("address", "10.0.1.1".into()), ("prefix", "10.0.0.0/24".into())]).contains("not in prefix"));
        assert!(
            refused([("restart", "never".into()), ("restart-exit-codes", vec![1i32].into())]).contains("goes with")
        );
    }

    #[test]
    fn a_check_needs_a_rule_that_can_be_asked_again() {
        for (ready, check, failures, says) in [
            ("tcp:80", 99u64, None, "check is 99 milliseconds: it can be 100 to 86400000"),
            ("tcp:80", 86_400_001, None, "check is 86400001"),
            ("tcp:80", 1000, Some(0), "check-failures is 0: it can be 1 to 1000"),
            ("tcp:80", 1000, Some(1001), "check-failures is 1001"),
            ("tcp:80", 0, Some(3), "check-failures goes with check"),
            ("running", 1000, None, "check goes with ready tcp:PORT or http:PORT/PATH only"),
            ("console:up", 1000, None, "check goes with ready tcp:PORT or http:PORT/PATH only"),
        ] {
            let mut options = vec![("ready", Variant::from(ready)), ("check", check.into())];
            options.extend(failures.map(|failures: u32| ("check-failures", failures.into())));
            let message = match options.try_into() {
                Ok(three) => refused::<3>(three),
                Err(options) => refused::<2>(<[_; 2]>::try_from(options).unwrap()),
            };
            assert!(message.contains(says), "{message}");
        }
        assert!(
            refused([("check", 1000u64.into())]).contains("check goes with ready"),
            "the rule's default is running"
        );
        assert!(refused([("check-failures", 3u32.into())]).contains("goes with check"));
    }

    #[test]
    fn options_of_other_image_forms_say_which() {
        assert!(refused([("mirage", "4".into())]).contains("git+https://"));
        assert!(refused([("image-path", "/x".into())]).contains("docker-daemon:"));
        for key in ["mirage", "config-file", "opam-repository-commit", "dockerfile"] {
            assert!(refused([(key, "x".into())]).contains(key));
        }
        for key in ["mirage-args", "extra-instructions"] {
            assert!(refused([(key, vec!["x"].into())]).contains(key));
        }
    }

    #[test]
    fn an_image_path_keeps_its_caller() {
        let caller = Caller { uid: 7, gid: 8, groups: vec![8, 9] };
        let ImageSource::Named { image: named, caller: kept, .. } = image("/srv/web.hvt", caller.clone()).unwrap()
        else {
            panic!()
        };
        assert_eq!((named.to_string().as_str(), kept), ("/srv/web.hvt", caller.clone()));
        assert!(image("web.hvt", caller.clone()).is_err());
        assert!(image(&format!("/{}", "x".repeat(MAX_PATH)), caller).is_err());
    }
}
