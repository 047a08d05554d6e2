//! Publish.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::options::Known;
use super::{
    InvalidArgument, MAX_ITEMS, Options, RawOptions, address, at_most, milliseconds, not_empty, prefix, service,
    shortened, unikernel,
};
use crate::domain::{PortMapping, PortProtocol, ServiceName, UnikernelId};
use crate::orchestrator::PublishRequest;

const KNOWN: &[Known] = &[("unikernel", "s"), ("addresses", "as"), ("sources", "as"), ("drain", "t")];

const MAX_PORTS: usize = 4096;
const MAX_ADDRESSES: usize = 256;
const MAX_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// A publication: `ports` are `(protocol, host port, unikernel port)`.
pub fn publish(
    name: &str,
    ports: Vec<(String, u16, u16)>,
    values: RawOptions,
) -> Result<PublishRequest, InvalidArgument> {
    let service = service(name)?;
    let ports = mappings(ports)?;
    let mut options = Options::check("Publish", values, KNOWN)?;
    let drain = options.take("drain")?.map(|value| milliseconds("drain", value, 0, MAX_DRAIN)).transpose()?;
    Ok(PublishRequest {
        unikernel: options.take::<String>("unikernel")?.map(|text| of_service(&text, &service)).transpose()?,
        addresses: options.take("addresses")?.map_or(Ok(BTreeSet::new()), host_addresses)?,
        sources: options.take("sources")?.map_or(Ok(Vec::new()), sources)?,
        service,
        ports,
        drain,
    })
}

fn mappings(ports: Vec<(String, u16, u16)>) -> Result<Vec<PortMapping>, InvalidArgument> {
    not_empty("ports", &ports, "name at least one, or call Unpublish to take a service off")?;
    at_most("ports", ports.len(), MAX_PORTS)?;
    let mut taken = BTreeSet::new();
    ports
        .into_iter()
        .map(|(protocol, host, unikernel)| {
            let protocol: PortProtocol = protocol.parse().map_err(|()| {
                InvalidArgument(format!("ports: protocol {:?} is none of tcp, udp and any", shortened(&protocol)))
            })?;
            if host == 0 || unikernel == 0 {
                return Err(InvalidArgument(format!("ports: ({protocol}, {host}, {unikernel}) has port 0")));
            }
            for transport in protocol.transports() {
                if !taken.insert((*transport, host)) {
                    return Err(InvalidArgument(format!("ports: host port {host}/{transport} is there twice")));
                }
            }
            Ok(PortMapping { protocol, host, unikernel })
        })
        .collect()
}

fn of_service(text: &str, service: &ServiceName) -> Result<UnikernelId, InvalidArgument> {
    let id = unikernel(text)?;
    if id.service() != *service {
        return Err(InvalidArgument(format!("unikernel {id} is one of service {}, not of {service}", id.service())));
    }
    Ok(id)
}

fn host_addresses(texts: Vec<String>) -> Result<BTreeSet<IpAddr>, InvalidArgument> {
    not_empty("addresses", &texts, "leave it out to publish on all of the host's addresses")?;
    at_most("addresses", texts.len(), MAX_ADDRESSES)?;
    texts
        .iter()
        .map(|text| {
            let address = address("addresses:", text)?;
            if address.is_unspecified() || address.is_multicast() {
                return Err(InvalidArgument(format!(
                    "addresses: {address} is not an address of a host; leave addresses out to publish on all"
                )));
            }
            Ok(address)
        })
        .collect()
}

fn sources(texts: Vec<String>) -> Result<Vec<IpNet>, InvalidArgument> {
    not_empty("sources", &texts, "leave it out to let anybody connect")?;
    at_most("sources", texts.len(), MAX_ITEMS)?;
    texts.iter().map(|text| prefix("sources:", text)).collect()
}

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::super::tests::sent;
    use super::*;

    fn with<const N: usize>(entries: [(&str, Variant<'static>); N]) -> Result<PublishRequest, InvalidArgument> {
        publish("website", vec![("tcp".into(), 80, 8080)], sent(entries))
    }

    fn ports(ports: &[(&str, u16, u16)]) -> Result<Vec<PortMapping>, InvalidArgument> {
        mappings(ports.iter().map(|(protocol, host, unikernel)| ((*protocol).into(), *host, *unikernel)).collect())
    }

    #[test]
    fn every_option_arrives() {
        let request = with([
            ("unikernel", "website.0123456789".into()),
            ("addresses", vec!["192.0.2.1", "::1"].into()),
            ("sources", vec!["10.0.0.7/8"].into()),
            ("drain", 0u64.into()),
        ])
        .unwrap();
        assert_eq!(request.ports, [PortMapping { protocol: PortProtocol::Tcp, host: 80, unikernel: 8080 }]);
        assert_eq!(request.unikernel.unwrap().as_str(), "website.0123456789");
        assert_eq!(request.addresses.len(), 2);
        assert_eq!(request.sources[0].to_string(), "10.0.0.0/8");
        assert_eq!(request.drain, Some(Duration::ZERO));
        let request = with([]).unwrap();
        assert!(request.unikernel.is_none() && request.addresses.is_empty() && request.drain.is_none());
    }

    #[test]
    fn what_is_not_valid_is_refused_by_name() {
        for (entry, word) in [
            (("unikernel", Variant::from("website")), "unikernel id"),
            (("unikernel", "other.0123456789".into()), "not of website"),
            (("addresses", Vec::<&str>::new().into()), "addresses is empty"),
            (("addresses", vec!["0.0.0.0"].into()), "0.0.0.0"),
            (("addresses", vec!["host"].into()), "addresses"),
            (("sources", Vec::<&str>::new().into()), "sources is empty"),
            (("sources", vec!["10.0.0.1"].into()), "sources"),
            (("drain", 86_400_001u64.into()), "drain"),
        ] {
            let message = with([entry]).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_host_port_is_taken_once_for_each_transport() {
        assert!(ports(&[("tcp", 53, 53), ("udp", 53, 53), ("any", 80, 80)]).is_ok());
        for bad in [
            &[("tcp", 53, 53), ("any", 53, 53)][..],
            &[("udp", 53, 1), ("udp", 53, 2)],
            &[("sctp", 1, 1)],
            &[("TCP", 1, 1)],
            &[("tcp", 0, 1)],
            &[("tcp", 1, 0)],
            &[],
        ] {
            assert!(ports(bad).is_err(), "{bad:?}");
        }
        let many = (0..4097).map(|port| ("tcp", port + 1, 1)).collect::<Vec<_>>();
        assert!(ports(&many[..4096]).is_ok() && ports(&many).is_err());
    }
}
