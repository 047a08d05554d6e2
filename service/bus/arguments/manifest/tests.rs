//! Manifests that are read, and every kind of refusal with its place.

mod generated;

use super::*;
use crate::domain::{PortProtocol, Readiness, RestartPolicy};

/// The contract's own example.
const CONTRACT: &str = r#"stack = "mail"
network = "br0"                              # and any other option of Deploy, for all members

[service.forward]
image = "docker-daemon:dns-resolver:latest"
memory = 256
args = ["--ipv4={address}/24", "--ipv4-gateway=10.0.0.2", "-l", "error"]

[service.signer]
image = "docker-daemon:dns-resolver:latest"
args = ["--ipv4={address}/24", "--relay={forward.address}"]

[service.entry]
image = "docker-daemon:dns-resolver:latest"
args = ["--ipv4={address}/24", "--relay={signer.address}"]
ready = "tcp:25"
ports  = ["25:25"]                           # host:unikernel[/tcp|udp|any], while live
staged = ["2525:25"]                         # while staged
"#;

fn refused(text: &str) -> String {
    manifest(text).unwrap_err().to_string()
}

/// The one member of a manifest with these lines.
fn only(head: &str, lines: &str) -> Result<MemberPlan, InvalidArgument> {
    let text = format!("stack = \"s\"\n{head}\n[service.a]\nimage = \"/a\"\n{lines}\n");
    manifest(&text).map(|manifest| manifest.members.into_values().next().unwrap())
}

/// What is said of a line of a member; it is line 5.
fn refused_line(line: &str) -> String {
    only("", line).unwrap_err().to_string()
}

fn tcp(host: u16, unikernel: u16) -> PortMapping {
    PortMapping { protocol: PortProtocol::Tcp, host, unikernel }
}

#[test]
fn the_contracts_example_is_read() {
    let Manifest { stack, members } = manifest(CONTRACT).unwrap();
    assert_eq!(stack.as_str(), "mail");
    assert_eq!(members.keys().map(ServiceName::as_str).collect::<Vec<_>>(), ["entry", "forward", "signer"]);
    let [entry, forward, signer] = ["entry", "forward", "signer"].map(|name| &members[&name.parse().unwrap()]);
    for member in [entry, forward, signer] {
        assert_eq!(member.image.to_string(), "docker-daemon:dns-resolver:latest");
        assert_eq!(member.configuration.network.as_ref().unwrap().as_str(), "br0");
    }
    assert_eq!((forward.configuration.memory, signer.configuration.memory), (256, 32));
    assert_eq!(signer.configuration.arguments.0, ["--ipv4={address}/24", "--relay={forward.address}"]);
    assert_eq!(entry.configuration.readiness, Readiness::Tcp { port: 25 });
    assert_eq!((&entry.ports[..], &entry.staged[..]), (&[tcp(25, 25)][..], &[tcp(2525, 25)][..]));
    assert!(forward.ports.is_empty() && forward.staged.is_empty());
    assert!(entry.addresses.is_empty() && entry.sources.is_empty() && entry.drain.is_none() && entry.watch.is_none());
}

#[test]
fn every_key_of_a_member_arrives() {
    let plan = only(
        "",
        r#"network = "br1"
           memory = 0x40
           cpu = 3
           args = ["--ipv4={address}"]
           prefix = "10.0.0.7/25"
           exclude = ["10.0.0.1", "10.0.0.2-10.0.0.4"]
           address = "10.0.0.9"
           block-devices = [["storage", "data", 0], ["cache", "cache", 4_096]]
           restart = "on-failure"
           restart-exit-codes = [3, 2, 3]
           ready = "tcp:80"
           timeout = 5
           check = 1000
           check-failures = 2
           ports = ["80:8080", "53:53/udp"]
           staged = ["8080:8080/any"]
           addresses = ["192.0.2.1", "127.0.0.53"]
           sources = ["10.0.0.7/8"]
           drain = 0
           watch = "10m""#,
    )
    .unwrap();
    let configuration = &plan.configuration;
    assert_eq!(configuration.network.as_ref().unwrap().as_str(), "br1");
    assert_eq!((configuration.memory, configuration.cpu, configuration.timeout.as_millis()), (64, Some(3), 5));
    assert_eq!(configuration.arguments.0, ["--ipv4={address}"]);
    assert_eq!(configuration.address.prefix.unwrap().to_string(), "10.0.0.0/25");
    assert_eq!(configuration.address.address.unwrap().to_string(), "10.0.0.9");
    assert_eq!(configuration.exclude.len(), 2);
    assert_eq!(configuration.block_devices[0].sector_size, None);
    assert_eq!(configuration.block_devices[1].sector_size, Some(4096));
    assert_eq!(configuration.restart, RestartPolicy::OnFailure(vec![2, 3]));
    assert_eq!(configuration.readiness, Readiness::Tcp { port: 80 });
    let check = configuration.check.unwrap();
    assert_eq!((check.interval, check.failures.get()), (Duration::from_secs(1), 2));
    assert_eq!(plan.ports, [tcp(80, 8080), PortMapping { protocol: PortProtocol::Udp, host: 53, unikernel: 53 }]);
    assert_eq!(plan.staged, [PortMapping { protocol: PortProtocol::Any, host: 8080, unikernel: 8080 }]);
    assert_eq!((plan.addresses.len(), plan.sources[0].to_string()), (2, "10.0.0.0/8".into()));
    assert_eq!((plan.drain, plan.watch), (Some(Duration::ZERO), Some(Duration::from_secs(600))));
}

#[test]
fn what_the_head_says_is_for_all_and_a_members_own_wins() {
    let head = "memory = 64\ntimeout = 7\nargs = [\"x\"]\nrestart-exit-codes = [2]\n";
    let plan = only(head, "memory = 128\nargs = []").unwrap().configuration;
    assert_eq!((plan.memory, plan.timeout.as_millis()), (128, 7));
    assert!(plan.arguments.0.is_empty());
    assert_eq!(plan.restart, RestartPolicy::OnFailure(vec![2]));
    assert_eq!(only(head, "restart = \"never\"").unwrap().configuration.restart, RestartPolicy::Never);
    let check = |head: &str, lines: &str| {
        let check = only(head, lines).map(|plan| plan.configuration.check);
        check.map(|check| check.map(|check| (check.interval.as_millis(), check.failures.get())))
    };
    let head = "check = 1000\ncheck-failures = 5";
    assert_eq!(check(head, "ready = \"tcp:80\"").unwrap(), Some((1000, 5)));
    assert_eq!(check(head, "ready = \"tcp:80\"\ncheck = 2000").unwrap(), Some((2000, 5)));
    assert_eq!(check(head, "check = 0").unwrap(), None);
    assert_eq!(check("ready = \"tcp:80\"", "check = 2000").unwrap(), Some((2000, 3)));
    assert!(check(head, "").unwrap_err().to_string().starts_with("line 2, column 9: check goes with ready"));
    assert!(check("check = 7", "check = 0").unwrap_err().to_string().contains("check is 7 milliseconds"));
    assert!(check("check-failures = 7", "check = 1000").unwrap_err().to_string().contains("goes with check"));
    // In dotted and inline tables as well.
    let plan = manifest("stack = \"s\"\nservice = { a = { image = \"/a\" } }\nmemory = 64").unwrap();
    assert_eq!(plan.members[&"a".parse().unwrap()].configuration.memory, 64);
    assert!(manifest("stack = \"s\"\nservice.a.image = \"/a\"").is_ok());
}

#[test]
fn mistakes_of_the_head_have_their_place() {
    const MEMBER: &str = "[service.a]\nimage = \"/a\"\nmemory = 1\naddress = \"10.0.1.1\"";
    for (head, expected) in [
        ("", "line 1, column 1: stack is missing"),
        ("stack = 5", "line 1, column 9: stack is a whole number, it must be a text"),
        ("\n stack = \"Mail\"", "line 2, column 10: stack name \"Mail\" is not valid: 1 to 52"),
        ("stack = \"s\"\nmemory = 0", "line 2, column 10: memory is 0 MiB: it can be 1 to 1048576"),
        (
            "stack = \"s\"\nmemroy = 64",
            "line 2, column 1: a manifest has no key \"memroy\"; its keys are stack, service, ",
        ),
        ("stack = \"s\"\n  address = \"10.0.0.9\"", "line 2, column 3: address cannot be for all members: write it in"),
        ("stack = \"s\"\nimage = \"/a\"", "line 2, column 1: image cannot be for all members"),
        ("stack = \"s\"\nports = [\"1:1\"]", "line 2, column 1: ports cannot be for all members"),
        ("stack = \"s\"\nmirage = \"4\"", "line 2, column 1: option mirage of Deploy goes with git+https://"),
        ("stack = \"s\"\nstack = \"t\"", "line 2, column 1: duplicate key"),
        ("stack = \"s\"\nprefix = \"10.0.0.0/24\"", "line 6, column 11: address 10.0.1.1 is not in prefix 10.0.0.0/24"),
        (
            "stack = \"s\"\nrestart = \"never\"\nrestart-exit-codes = [2]",
            "line 3, column 22: restart-exit-codes goes with",
        ),
        ("stack = \"s\"\nnetwork = \"br/0\"", "line 2, column 11: network \"br/0\" is not valid"),
    ] {
        let message = refused(&format!("{head}\n{MEMBER}"));
        assert!(message.starts_with(expected), "{message}\n{expected}");
    }
}

#[test]
fn mistakes_about_members_have_their_place() {
    for (text, expected) in [
        ("", "line 1, column 1: stack s has no member: write a table [service.NAME]"),
        ("[service]", "line 2, column 2: stack s has no member"),
        ("service = \"a\"", "line 2, column 1: service is not a table"),
        ("[[service]]", "line 2, column 3: service is not a table"),
        ("[service]\nimage = \"/a\"", "line 3, column 1: service.image is not a table"),
        ("[service.A]", "line 2, column 10: service name \"A\" is not valid: 1 to 52 characters"),
        ("[ service . a ]\nmemory = 5", "line 2, column 13: member a has no image: write image = "),
        ("[service.a]\nimage = \"/a\"\n[service.a]", "line 4, column 10: duplicate key"),
        (
            "[service.a]\nimage = \"/a\"\n[service.a.args]\nx = 1",
            "line 4, column 1: args is a table, it must be a list of",
        ),
        (
            "[service.a]\nimage = \"/a\"\n[service.a.arg]",
            "line 4, column 12: a member has no key \"arg\"; its keys are image",
        ),
        ("[service.a]\nimage = \"a\"", "line 3, column 9: image \"a\" is of a form"),
        ("[service.z]\nmemory = 0\n[service.a]\nmemroy = 0", "line 2, column 10: member z has no image"),
        ("[service.a]\nz = 0\nb = 0", "line 3, column 1: a member has no key \"z\""),
        ("[service.a]\nimage = \"sha256:5\"", "line 3, column 9: \"sha256:5\" is not a digest"),
    ] {
        let message = refused(&format!("stack = \"s\"\n{text}"));
        assert!(message.starts_with(expected), "{message}\n{expected}");
    }
}

#[test]
fn values_that_are_not_valid_have_their_place() {
    for (line, expected) in [
        ("memory = 0", "10: memory is 0 MiB"),
        ("memory = 1048577", "10: memory is 1048577 MiB"),
        ("network = \"br/0\"", "11: network \"br/0\""),
        ("args = [\"a\", 5]", "14: args has a whole number, an entry must be a text"),
        ("args = [\"ä\", [\"b\"]]", "14: args has a list, an entry must be a text"),
        ("prefix = \"10.0.0.0\"", "10: prefix \"10.0.0.0\" is not a prefix"),
        ("address = \"10.0.0\"", "11: address \"10.0.0\" is not an IP address"),
        ("exclude = [\"10.0.0.1\", \"x\"]", "24: exclude: \"x\" excludes nothing"),
        ("block-devices = [[\"a\", \"b\", 0], [\"a\", \"c\", 0]]", "33: block-devices names \"a\" twice"),
        ("block-devices = [[\"a\", \"b\", 513]]", "18: block-devices: sector size 513"),
        ("block-devices = [[\"a\", \"b\"]]", "18: block-devices has a list, an entry must be a list of two texts and"),
        ("block-devices = [[\"a\", 0, 0]]", "24: block-devices has a whole number, an entry must be a text"),
        ("block-devices = [\"a\"]", "18: block-devices has a text, an entry must be a list of two"),
        ("restart = \"always\"", "11: restart \"always\" is neither"),
        ("restart-exit-codes = []", "22: restart-exit-codes is empty"),
        ("restart-exit-codes = [2, 256]", "26: restart-exit-codes: 256 is no exit code"),
        ("restart-exit-codes = [2]\nrestart = \"never\"", "22: restart-exit-codes goes with restart on-failure only"),
        ("ready = \"tcp:0\"", "9: \"tcp:0\" is not a readiness rule"),
        ("timeout = 0", "11: timeout is 0 milliseconds"),
        ("ports = [\"25:25\", \"0:25\"]", "19: ports: (tcp, 0, 25) has port 0"),
        ("ports = [\"25\"]", "10: ports: \"25\" is not HOST:UNIKERNEL"),
        ("staged = [\"25:25/sctp\"]", "11: staged: protocol \"sctp\" is none of tcp, udp and any"),
        ("staged = [\"25:25\", \"25:26/any\"]", "20: staged: host port 25/tcp is there twice"),
        ("addresses = [\"0.0.0.0\"]", "14: addresses: 0.0.0.0 is not an address of a host"),
        ("addresses = [\"192.0.2.1\", \"::1\"]", "27: addresses: ::1 is an IPv6 address"),
        ("addresses = [\"::ffff:192.0.2.1\"]", "14: addresses: \"::ffff:192.0.2.1\" is IPv4 written as IPv6"),
        ("sources = [\"10.0.0.0/8\", \"2001:db8::/32\"]", "26: sources: 2001:db8::/32 is an IPv6 prefix"),
        ("restart-exit-codes = [2, 62]", "26: restart-exit-codes: Albatross never starts again what exits with 62"),
        ("sources = []", "11: sources is empty"),
        ("sources = [\"10.0.0.1\"]", "12: sources: \"10.0.0.1\" is not a prefix"),
        ("drain = 86400001", "9: drain is 86400001 milliseconds"),
        ("watch = \"10\"", "9: watch \"10\" is not a duration from 1s to 24h"),
        ("image-path = \"/x\"", "14: option image-path of Deploy goes with docker-daemon:"),
        ("dockerfile = \"x\"", "14: option dockerfile of Deploy goes with git+https://"),
        ("unikernel = \"a\"", "1: a member has no key \"unikernel\"; its keys are image, ports"),
    ] {
        // A member with ports, so that what goes with them is looked at.
        let ports = if line.starts_with("ports") { "" } else { "\nports = [\"1:1\"]" };
        let message = refused_line(&format!("{line}{ports}"));
        assert!(message.starts_with(&format!("line 5, column {expected}")), "{message}\n{line}");
    }
}

#[test]
fn types_are_said_in_words() {
    for (line, expected) in [
        ("memory = \"64\"", "memory is a text, it must be a whole number from 0 on"),
        ("memory = -1", "memory is a number that is too small or too large, it must be"),
        ("memory = 18446744073709551616", "memory is a number that is too small or too large"),
        ("memory = 6.4", "memory is a number with a fraction"),
        ("memory = 18446744073709551615", "memory is 18446744073709551615 MiB"),
        (
            "cpu = 4294967296",
            "cpu is a number that is too small or too large, it must be a whole number from 0 to 42949",
        ),
        (
            "restart-exit-codes = [2147483648]",
            "restart-exit-codes has a number that is too small or too large, an entry",
        ),
        ("restart = false", "restart is a boolean, it must be a text"),
        ("ready = 2026-01-01", "ready is a date or time, it must be a text"),
        ("args = \"--x\"", "args is a text, it must be a list of texts"),
        ("args = [\"a\\u0000\"]", "args has a text with a NUL character, an entry must be a text"),
    ] {
        let message = refused_line(line);
        assert!(message.starts_with("line 5, column ") && message.contains(expected), "{message}");
    }
}

#[test]
fn what_goes_with_something_else_is_refused_without_it() {
    for option in ["addresses = [\"192.0.2.1\"]", "sources = [\"0.0.0.0/0\"]", "drain = 5"] {
        assert!(refused_line(option).contains("goes with ports or staged"));
        assert!(only("", &format!("{option}\nstaged = [\"1:1\"]")).is_ok());
    }
    let stored = format!("stack = \"s\"\n[service.a]\nimage = \"sha256:{}\"\n", "0".repeat(64));
    assert!(manifest(&stored).is_ok());
    let message = refused(&format!("{stored}watch = \"10m\""));
    assert!(message.starts_with("line 4, column 9: watch goes with an image that can change"), "{message}");
}

#[test]
fn broken_toml_has_its_place() {
    for (text, place) in [
        ("stack = \"s", "line 1, column "),
        ("stack = \"s\"\nmemory = ", "line 2, column "),
        ("stack = \"s\"\n[service.a\n", "line 2, column "),
        ("\u{feff}x y", "line 1, column "),
    ] {
        let message = refused(text);
        assert!(message.starts_with(place), "{message}");
    }
    // The one mistake of which the parser does not say where it is.
    assert_eq!(refused(&format!("{}z = 1", "a.".repeat(100))), "somewhere in the manifest: recursion limit");
}

#[test]
fn no_refusal_repeats_an_argument() {
    for line in [
        "args = \"SECRET\"",
        "args = [[\"SECRET\"]]",
        "args = [{ SECRET = \"SECRET\" }]",
        "args = [\"SECRET\", 5]",
        "args = [\"SECRET\" \"SECRET\"]",
        "args = [\"SECRET]",
        "args = [SECRET]",
        "args = [\"\\SECRET\"]",
        "args = [\"SECRET\\u0000\"]",
        "args = { SECRET = \"SECRET\" }",
        "args = \"\"\"SECRET",
        "args = 'SECRET\nmemory = 'SECRET'",
        "args = [\"SECRET\"]\nmemory = 0",
        "args = [\"SECRET\"]\nargs = [\"SECRET\"]",
        "arg = [\"SECRET\"]",
        "args = [\"SECRET\"] SECRET",
    ] {
        let message = refused_line(line);
        assert!(message.starts_with("line ") && !message.contains("SECRET"), "{message}");
    }
    let message = refused_line(&format!("args = [\"{}\"]", "SECRET".repeat(30_000)));
    assert!(message.starts_with("line 5, column 8: args are 180000 bytes") && !message.contains("SECRET"), "{message}");
}

#[test]
fn sizes_are_limited() {
    let large = format!("stack = \"s\" #{}", "x".repeat(MAX_TEXT));
    assert!(refused(&large).contains("at most 1048576"));
    let members = |count: usize| {
        let members = (0..count).map(|number| format!("[service.m{number}]\nimage = \"/a\"\n")).collect::<String>();
        manifest(&format!("stack = \"s\"\n{members}"))
    };
    assert_eq!(members(256).unwrap().members.len(), 256);
    let message = members(257).unwrap_err().to_string();
    assert_eq!(message, "line 2, column 2: service has 257 entries: there can be at most 256");
    let ports = |count: usize| {
        let ports = (1..=count).map(|host| format!("\"{host}:1\"")).collect::<Vec<_>>().join(",");
        only("", &format!("ports = [{ports}]"))
    };
    assert!(ports(4096).is_ok());
    assert!(ports(4097).unwrap_err().to_string().contains("line 5, column 9: ports has 4097 entries"));
    let arguments = vec!["\"x\""; 1025].join(",");
    assert!(refused_line(&format!("args = [{arguments}]")).contains("line 5, column 8: args has 1025 entries"));
    for long in ["x".repeat(100_000), format!("\"{}\"", "ü".repeat(100_000))] {
        assert!(refused_line(&format!("{long} = 5")).len() < 600);
    }
    assert!(refused_line(&format!("args = {}", "[".repeat(100_000))).starts_with("line 5, column "));
}
