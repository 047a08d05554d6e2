//! Things to show.

use std::sync::Arc;

use albatross_deployer::domain::{
    ChainView, ImageDigest, JobKind, JobNumber, JobView, Ordinal, PortMapping, PortProtocol, Publication, ServiceView,
    StackState, StackView, Timestamp, UnikernelState, UnikernelView,
};

pub fn unikernel(id: &str, state: UnikernelState) -> Arc<UnikernelView> {
    Arc::new(UnikernelView {
        id: id.parse().unwrap(),
        state,
        address: "10.0.0.7".parse().unwrap(),
        network: "br0".parse().unwrap(),
        mac: None,
        memory: 32,
        cpu: 1,
        image: ImageDigest([1; 32]),
        image_origin: String::new(),
        created_at: Timestamp(1),
        revision: Ordinal(1),
        started_at: None,
        restarts: 0,
        exit_reason: String::new(),
    })
}

pub fn service(name: &str, live: Option<&str>) -> Arc<ServiceView> {
    let publication = live.map(|id| {
        Arc::new(Publication {
            unikernel: id.parse().unwrap(),
            target: "10.0.0.7".parse().unwrap(),
            ports: vec![PortMapping { protocol: PortProtocol::Any, host: 53, unikernel: 5353 }],
            addresses: Default::default(),
            sources: vec![],
            drain: 0,
            tolerates_until: None,
        })
    });
    Arc::new(ServiceView { name: name.parse().unwrap(), publication, previous: None })
}

pub fn stack(name: &str, state: StackState) -> Arc<StackView> {
    Arc::new(StackView {
        name: name.parse().unwrap(),
        state,
        live: ChainView::new(),
        staged: ChainView::new(),
        previous: ChainView::new(),
        last_check: None,
        last_result: String::new(),
    })
}

/// Members by their names, with the ids of their unikernels; `""` for one that is gone.
pub fn chain<const N: usize>(members: [(&str, &str); N]) -> ChainView {
    let unikernel = |id: &str| (!id.is_empty()).then(|| id.parse().unwrap());
    members.into_iter().map(|(name, id)| (name.parse().unwrap(), unikernel(id))).collect()
}

pub fn job(number: u64, step: &'static str) -> JobView {
    JobView {
        number: JobNumber(number),
        kind: JobKind::Deploy,
        subject: "website".into(),
        step: step.into(),
        progress: None,
        bytes: 0,
    }
}
