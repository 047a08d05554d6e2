//! Members for tests, by what matters there.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::{
    AddressChoice, Arguments, Configuration, ImageDigest, ImageReference, Manifest, MemberPlan, Ordinal, Phase,
    PortMapping, PortProtocol, Readiness, RestartPolicy, ServiceName, Timestamp, Unikernel, UnikernelId, UnikernelSpec,
};

pub fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

pub fn plan(arguments: &[&str]) -> MemberPlan {
    let configuration = Configuration {
        network: None,
        memory: 32,
        cpu: None,
        arguments: Arguments(arguments.iter().map(ToString::to_string).collect()),
        address: AddressChoice::default(),
        exclude: Vec::new(),
        block_devices: Vec::new(),
        restart: RestartPolicy::Never,
        readiness: Readiness::Running,
        timeout: Duration::from_secs(1),
        check: None,
    };
    MemberPlan {
        image: ImageReference::Stored(ImageDigest([0; 32])),
        image_options: crate::domain::ImageOptions::default(),
        configuration,
        ports: Vec::new(),
        staged: Vec::new(),
        addresses: BTreeSet::new(),
        sources: Vec::new(),
        drain: None,
        watch: None,
    }
}

pub fn tcp(host: u16, unikernel: u16) -> PortMapping {
    PortMapping { protocol: PortProtocol::Tcp, host, unikernel }
}

pub fn manifest(members: impl IntoIterator<Item = (&'static str, MemberPlan)>) -> Manifest {
    let members = members.into_iter().map(|(text, plan)| (name(text), plan)).collect();
    Manifest { stack: "mail".parse().unwrap(), members }
}

/// The example of the contract.
pub fn mail() -> Manifest {
    let (ports, staged) = (vec![tcp(25, 25)], vec![tcp(2525, 25)]);
    manifest([
        ("forward", plan(&["--ipv4={address}/24"])),
        ("signer", plan(&["--ipv4={address}/24", "--relay={forward.address}"])),
        ("entry", MemberPlan { ports, staged, ..plan(&["--ipv4={address}/24", "--relay={signer.address}"]) }),
    ])
}

/// What decides on the id, as Deploy makes it of a configuration.
pub fn specification(configuration: &Configuration, image: ImageDigest) -> UnikernelSpec {
    let configuration = configuration.clone();
    UnikernelSpec {
        image,
        arguments: configuration.arguments,
        memory: configuration.memory,
        network: configuration.network.unwrap_or_else(|| "br0".parse().unwrap()),
        cpu: configuration.cpu,
        block_devices: configuration.block_devices,
        restart: configuration.restart,
        address: configuration.address,
    }
}

/// Its address ends with the image's first byte.
pub fn unikernel(id: UnikernelId, image: ImageDigest, phase: Phase) -> Unikernel {
    Unikernel {
        id,
        spec: specification(&plan(&[]).configuration, image),
        readiness: Readiness::Running,
        timeout: Duration::from_secs(1),
        check: None,
        phase,
        brought_image: false,
        removing: false,
        address: [10, 0, 0, image.0[0]].into(),
        mac: None,
        cpu: 0,
        created_at: Timestamp(0),
        deployed: Ordinal(1),
        started_at: None,
        restarts: 0,
        exit_reason: String::new(),
        last_live: None,
        provisional: None,
    }
}
