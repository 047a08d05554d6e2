//! The rows of the Manager's lists: pure.

use std::sync::Arc;

use zbus::OwnedObjectPath;

use super::path;
use crate::domain::{self, JobResult, JobView, ServiceName};

/// `(sssx)`: tag, address, prefix, since.
pub type Lease = (String, String, String, i64);

/// `(ssssqsq)`: service, unikernel id, protocol, host address, host port, unikernel address, unikernel port.
pub type Publication = (String, String, String, String, u16, String, u16);

/// `(xs)`: when, line.
pub type ConsoleLine = (i64, String);

/// `(osss)`: job, kind, subject, `running` or result.
pub type Job = (OwnedObjectPath, String, String, String);

pub fn lease(lease: &domain::Lease) -> Lease {
    (lease.tag.to_string(), lease.address.to_string(), lease.prefix.to_string(), lease.since.0)
}

pub fn console_line(line: &domain::ConsoleLine) -> ConsoleLine {
    (line.at.0, line.lossy())
}

pub fn publications(all: &[(ServiceName, Arc<domain::Publication>)]) -> Vec<Publication> {
    all.iter().flat_map(|(service, publication)| publication_rows(service, publication)).collect()
}

fn publication_rows(service: &ServiceName, publication: &domain::Publication) -> impl Iterator<Item = Publication> {
    publication.host_ports().map(|(host, port)| {
        (
            service.to_string(),
            publication.unikernel.to_string(),
            host.transport.to_string(),
            host.address.map(|address| address.to_string()).unwrap_or_default(),
            host.port,
            publication.target.to_string(),
            port,
        )
    })
}

pub fn job((view, result): &(JobView, Option<JobResult>)) -> Job {
    let state = result.map_or_else(|| "running".to_owned(), |result| result.to_string());
    (path::job(view.number), view.kind.to_string(), view.subject.clone(), state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobKind, JobNumber, PortMapping, PortProtocol};

    #[test]
    fn any_is_a_row_for_each_transport() {
        let publication = domain::Publication {
            unikernel: "dns.0123456789".parse().unwrap(),
            target: "10.0.0.7".parse().unwrap(),
            ports: vec![PortMapping { protocol: PortProtocol::Any, host: 53, unikernel: 5353 }],
            addresses: Default::default(),
            sources: vec![],
            drain: 0,
            tolerates_until: None,
        };
        let rows = publications(&[("dns".parse().unwrap(), Arc::new(publication))]);
        let row = |transport: &str| {
            let texts = ["dns", "dns.0123456789", transport, ""].map(str::to_owned);
            let [service, id, transport, address] = texts;
            (service, id, transport, address, 53, "10.0.0.7".to_owned(), 5353)
        };
        assert_eq!(rows, [row("tcp"), row("udp")]);
    }

    #[test]
    fn a_job_runs_until_it_has_a_result() {
        let view = JobView {
            number: JobNumber(3),
            kind: JobKind::Deploy,
            subject: "dns".into(),
            step: "create".into(),
            progress: None,
            bytes: 0,
        };
        assert_eq!(job(&(view.clone(), None)).3, "running");
        assert_eq!(job(&(view, Some(JobResult::Cancelled))).3, "cancelled");
    }
}
