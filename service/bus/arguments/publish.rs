//! Publish.

use super::options::Known;
use super::publication::{PublishOptions, Terms, mappings};
use super::{InvalidArgument, Options, RawOptions, not_empty, service, unikernel};
use crate::domain::{Caller, ServiceName, UnikernelId};
use crate::orchestrator::PublishRequest;

const KNOWN: &[Known] = &[("unikernel", "s"), ("addresses", "as"), ("sources", "as"), ("drain", "t")];

/// A publication that `caller` asks for: `ports` are `(protocol, host port, unikernel port)`.
pub fn publish(
    name: &str,
    ports: Vec<(String, u16, u16)>,
    values: RawOptions,
    caller: Caller,
) -> Result<PublishRequest, InvalidArgument> {
    let service = service(name)?;
    not_empty("ports", &ports, "name at least one, or call Unpublish to take a service off")?;
    let ports = mappings("ports", ports)?;
    let mut options = Options::check("Publish", values, KNOWN)?;
    let unikernel = options.take::<String>("unikernel")?.map(|text| of_service(&text, &service)).transpose()?;
    let (addresses, sources) = (options.take("addresses")?, options.take("sources")?);
    let Terms { addresses, sources, drain } =
        PublishOptions { addresses, sources, drain: options.take("drain")? }.terms()?;
    Ok(PublishRequest { caller, service, ports, unikernel, addresses, sources, drain })
}

fn of_service(text: &str, service: &ServiceName) -> Result<UnikernelId, InvalidArgument> {
    let id = unikernel(text)?;
    if id.service() != *service {
        return Err(InvalidArgument(format!("unikernel {id} is one of service {}, not of {service}", id.service())));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zbus::Variant;

    use super::super::tests::sent;
    use super::*;
    use crate::domain::{PortMapping, PortProtocol};

    fn caller() -> Caller {
        Caller { uid: 7, gid: 8, groups: vec![] }
    }

    fn with<const N: usize>(entries: [(&str, Variant<'static>); N]) -> Result<PublishRequest, InvalidArgument> {
        publish("website", vec![("tcp".into(), 80, 8080)], sent(entries), caller())
    }

    fn ports(ports: &[(&str, u16, u16)]) -> Result<Vec<PortMapping>, InvalidArgument> {
        let ports = ports.iter().map(|(protocol, host, unikernel)| ((*protocol).into(), *host, *unikernel)).collect();
        publish("website", ports, sent([]), caller()).map(|request| request.ports)
    }

    #[test]
    fn every_option_arrives() {
        let request = with([
            ("unikernel", "website.0123456789".into()),
            ("addresses", vec!["192.0.2.1", "127.0.0.53"].into()),
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
            (("addresses", vec!["192.0.2.1", "::1"].into()), "::1 is an IPv6 address"),
            (("addresses", vec!["::ffff:192.0.2.1"].into()), "write it as IPv4"),
            (("sources", vec!["2001:db8::/32"].into()), "2001:db8::/32 is an IPv6 prefix"),
            (("sources", vec!["10.0.0.0/8", "::/0"].into()), "::/0 is an IPv6 prefix"),
            (("sources", vec!["::ffff:10.0.0.0/104"].into()), "write it as IPv4"),
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
