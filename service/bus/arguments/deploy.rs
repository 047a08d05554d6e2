//! Deploy and DeployImage.

use std::collections::BTreeSet;
use std::time::Duration;

use super::options::Known;
use super::{
    InvalidArgument, MAX_ITEMS, Options, RawOptions, address, at_most, exclusions, milliseconds, not_empty, own_words,
    prefix, service, shortened,
};
use crate::domain::{
    AddressChoice, Arguments, BlockDevice, Caller, Configuration, ImageReference, Readiness, RestartPolicy,
};
use crate::orchestrator::{DeployRequest, ImageSource};

const KNOWN: &[Known] = &[
    ("network", "s"),
    ("memory", "t"),
    ("cpu", "u"),
    ("args", "as"),
    ("prefix", "s"),
    ("exclude", "as"),
    ("address", "s"),
    ("block-devices", "a(ssu)"),
    ("restart", "s"),
    ("restart-exit-codes", "ai"),
    ("ready", "s"),
    ("timeout", "t"),
];

/// Options of the contract that go with forms of `image` which this version does not read.
const OTHER_FORMS: &[(&str, &str)] = &[
    ("image-path", "docker-daemon:, docker-archive:, oci-archive:, oci:, docker:// and git+ images"),
    ("mirage", GIT),
    ("config-file", GIT),
    ("mirage-args", GIT),
    ("extra-instructions", GIT),
    ("opam-repository-commit", GIT),
    ("dockerfile", GIT),
];
const GIT: &str = "git+https://, git+ssh:// and git+file:/// images";

const DEFAULT_MEMORY: u64 = 32;
/// 1 TiB in MiB.
const MAX_MEMORY: u64 = 1 << 20;
const MAX_ARGUMENTS: usize = 1024;
/// Bytes of all arguments together. The tenders' own limit is lower; this one keeps a mistake out of the ledger.
const MAX_ARGUMENT_BYTES: usize = 128 * 1024;
const MAX_BLOCK_DEVICES: usize = 64;
const DEFAULT_TIMEOUT: u64 = 30_000;
const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// The kernel's PATH_MAX.
const MAX_PATH: usize = 4096;

/// The `image` of Deploy. A path is opened later, with no more rights than `caller` has.
pub fn image(text: &str, caller: Caller) -> Result<ImageSource, InvalidArgument> {
    if text.len() > MAX_PATH {
        return Err(InvalidArgument(format!("image is {} bytes long: at most {MAX_PATH} can be a path", text.len())));
    }
    Ok(match own_words(text)? {
        ImageReference::Stored(digest) => ImageSource::Stored(digest),
        ImageReference::Path(path) => ImageSource::Path { path, caller },
    })
}

/// A deployment, with the defaults of the contract where the caller did not choose.
pub fn deploy(name: &str, image: ImageSource, values: RawOptions) -> Result<DeployRequest, InvalidArgument> {
    let service = service(name)?;
    for (key, forms) in OTHER_FORMS {
        if values.has(key) {
            return Err(InvalidArgument(format!("option {key} of Deploy goes with {forms} only")));
        }
    }
    let mut options = Options::check("Deploy", values, KNOWN)?;
    let configuration = Configuration {
        network: options.take::<String>("network")?.map(|text| own_words(&text)).transpose()?,
        memory: memory(&mut options)?,
        cpu: options.take("cpu")?,
        arguments: arguments(&mut options)?,
        address: address_choice(&mut options)?,
        exclude: exclusions("exclude", &options.take::<Vec<String>>("exclude")?.unwrap_or_default())?,
        block_devices: block_devices(&mut options)?,
        restart: restart(&mut options)?,
        readiness: options.take::<String>("ready")?.map_or(Ok(Readiness::default()), |text| own_words(&text))?,
        timeout: milliseconds("timeout", options.take("timeout")?.unwrap_or(DEFAULT_TIMEOUT), 1, MAX_TIMEOUT)?,
    };
    Ok(DeployRequest { service, image, configuration, stack: None })
}

fn memory(options: &mut Options) -> Result<u64, InvalidArgument> {
    let memory = options.take("memory")?.unwrap_or(DEFAULT_MEMORY);
    if (1..=MAX_MEMORY).contains(&memory) {
        return Ok(memory);
    }
    Err(InvalidArgument(format!("memory is {memory} MiB: it can be 1 to {MAX_MEMORY}")))
}

fn arguments(options: &mut Options) -> Result<Arguments, InvalidArgument> {
    let arguments = options.take::<Vec<String>>("args")?.unwrap_or_default();
    at_most("args", arguments.len(), MAX_ARGUMENTS)?;
    let bytes = arguments.iter().map(String::len).sum::<usize>();
    if bytes > MAX_ARGUMENT_BYTES {
        // Never with the arguments themselves: they can hold secrets.
        return Err(InvalidArgument(format!("args are {bytes} bytes together: at most {MAX_ARGUMENT_BYTES} can be")));
    }
    Ok(Arguments(arguments))
}

fn address_choice(options: &mut Options) -> Result<AddressChoice, InvalidArgument> {
    let prefix = options.take::<String>("prefix")?.map(|text| prefix("prefix", &text)).transpose()?;
    let address = options.take::<String>("address")?.map(|text| address("address", &text)).transpose()?;
    if let (Some(prefix), Some(address)) = (prefix, address)
        && !prefix.contains(&address)
    {
        return Err(InvalidArgument(format!("address {address} is not in prefix {prefix}")));
    }
    Ok(AddressChoice { prefix, address })
}

fn block_devices(options: &mut Options) -> Result<Vec<BlockDevice>, InvalidArgument> {
    let devices = options.take::<Vec<(String, String, u32)>>("block-devices")?.unwrap_or_default();
    at_most("block-devices", devices.len(), MAX_BLOCK_DEVICES)?;
    let mut names = BTreeSet::new();
    devices
        .into_iter()
        .map(|(name, device, sector_size)| {
            if !is_word(&name) || !is_word(&device) {
                let (name, device) = (shortened(&name), shortened(&device));
                return Err(InvalidArgument(format!(
                    "block-devices: ({name:?}, {device:?}) does not name two devices"
                )));
            }
            if !names.insert(name.clone()) {
                return Err(InvalidArgument(format!("block-devices names {name:?} twice")));
            }
            let sector_size = sector_size_of(&name, sector_size)?;
            Ok(BlockDevice { name, device, sector_size })
        })
        .collect()
}

fn sector_size_of(name: &str, bytes: u32) -> Result<Option<u32>, InvalidArgument> {
    match bytes {
        0 => Ok(None),
        512.. if bytes.is_power_of_two() => Ok(Some(bytes)),
        _ => Err(InvalidArgument(format!(
            "block-devices: sector size {bytes} of {name:?} is not a power of two from 512 on (0: 512)"
        ))),
    }
}

fn is_word(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn restart(options: &mut Options) -> Result<RestartPolicy, InvalidArgument> {
    let policy = options.take::<String>("restart")?;
    let codes = options.take::<Vec<i32>>("restart-exit-codes")?;
    match (policy.as_deref(), codes) {
        (None | Some("on-failure"), codes) => exit_codes(codes).map(RestartPolicy::OnFailure),
        (Some("never"), None) => Ok(RestartPolicy::Never),
        (Some("never"), Some(_)) => Err(InvalidArgument::new("restart-exit-codes goes with restart on-failure only")),
        (Some(other), _) => {
            Err(InvalidArgument(format!("restart {:?} is neither never nor on-failure", shortened(other))))
        }
    }
}

fn exit_codes(codes: Option<Vec<i32>>) -> Result<Vec<i32>, InvalidArgument> {
    let Some(codes) = codes else { return Ok(Vec::new()) };
    not_empty("restart-exit-codes", &codes, "leave it out for all exit codes, or say restart never for none")?;
    at_most("restart-exit-codes", codes.len(), MAX_ITEMS)?;
    if let Some(code) = codes.iter().find(|code| !(0..=255).contains(*code)) {
        return Err(InvalidArgument(format!("restart-exit-codes: {code} is no exit code, those are 0 to 255")));
    }
    // A set: the order that somebody wrote them in must not make another unikernel of it.
    Ok(codes.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::super::tests::sent;
    use super::*;
    use crate::domain::ImageDigest;

    fn with<const N: usize>(entries: [(&str, Variant<'static>); N]) -> Result<Configuration, InvalidArgument> {
        let request = deploy("website", ImageSource::Stored(ImageDigest([1; 32])), sent(entries));
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
    fn options_of_other_image_forms_say_which() {
        assert!(refused([("mirage", "4".into())]).contains("git+https://"));
        assert!(refused([("image-path", "/x".into())]).contains("docker-daemon:"));
        for (key, _) in OTHER_FORMS {
            assert!(refused([(key, "x".into())]).contains(key));
        }
    }

    #[test]
    fn an_image_path_keeps_its_caller() {
        let caller = Caller { uid: 7, gid: 8, groups: vec![8, 9] };
        let ImageSource::Path { path, caller: kept } = image("/srv/web.hvt", caller.clone()).unwrap() else { panic!() };
        assert_eq!((path.to_str(), kept), (Some("/srv/web.hvt"), caller.clone()));
        assert!(image("web.hvt", caller.clone()).is_err());
        assert!(image(&format!("/{}", "x".repeat(MAX_PATH)), caller).is_err());
    }
}
