use std::fs;

use super::*;

/// A folder with a configuration file and its fragments: `("", text)` is the file itself.
fn loaded(files: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    for (name, text) in files {
        let path = if name.is_empty() { file.clone() } else { folder.path().join("config.toml.d").join(name) };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    load(&file).map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn message(text: &str) -> String {
    loaded(&[("", text)]).unwrap_err()
}

#[test]
fn nothing_is_needed() {
    assert_eq!(loaded(&[]), Ok(Config::default()));
    assert_eq!(loaded(&[("", ""), ("a.toml", "# nothing\n[limits]\n")]), Ok(Config::default()));
}

/// The example of the contract, whose values are the defaults except for the network.
const EXAMPLE: &str = r#"
default-network = "br0"

[network.br0]
prefix = "10.0.0.0/24"
gateway = "10.0.0.1"
exclude = ["10.0.0.2", "10.0.0.10-10.0.0.19", "10.0.0.128/25"]
manage = true

[publish]
drain = 30000
loopback = true

[collect]
keep-previous = 1
automatic = false

[limits]
image-size = "256 MiB"
concurrent-deploys = 4
job-history = 64

[images]
docker-socket = "/run/docker.sock"
insecure-registries = []
auth-file = ""
keys = []
cache-size = "2 GiB"

[git]
ssh-key = ""
known-hosts = ""
certificates = ""

[build]
mirage-3 = "docker.io/ocaml/opam:ubuntu-20.04-ocaml-4.11"
mirage-4 = "docker.io/ocaml/opam:debian-12-ocaml-4.14"
deadline = 7200000

[albatross]
path = ""
deadline = 10000

[access]
group = "albatross"
"#;

#[test]
fn the_example_of_the_contract() {
    let name: NetworkName = "br0".parse().unwrap();
    let exclude = ["10.0.0.2", "10.0.0.10-10.0.0.19", "10.0.0.128/25"].map(|text| text.parse().unwrap()).into();
    let expected = Config {
        default_network: Some(name.clone()),
        networks: vec![Network {
            name: name.clone(),
            prefix: "10.0.0.0/24".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            exclude,
        }],
        managed: [name].into(),
        build: Build {
            bases: BaseImages {
                mirage_3: BaseImages::DEFAULT_MIRAGE_3.parse().ok(),
                mirage_4: BaseImages::DEFAULT_MIRAGE_4.parse().ok(),
            },
            ..Build::default()
        },
        ..Config::default()
    };
    assert_eq!(loaded(&[("", EXAMPLE)]), Ok(expected));
}

#[test]
fn every_key_is_taken_over() {
    let config = loaded(&[(
        "",
        r#"
        [publish]
        drain = 0
        loopback = false
        fall-back = true
        ports = ["80/tcp", "443", "1024-65535"]
        take-over = ["22/tcp"]
        [collect]
        keep-previous = 7
        automatic = true
        [limits]
        image-size = 1_000
        store-size = 1_001
        concurrent-deploys = 1
        job-history = 0
        [images]
        docker-socket = "/run/podman/podman.sock"
        insecure-registries = ["127.0.0.1:5000", "[::1]:5000"]
        auth-file = "/root/.docker/config.json"
        keys = ["RWShCiDeO43pLx53fHkyzTrs07sbnQivdhPaCKuL7SkxPtcC6VBxRaW8"]
        cache-size = "1TiB"
        [git]
        ssh-key = "/etc/albatross-deployer/id_ed25519"
        known-hosts = "/etc/albatross-deployer/known hosts"
        certificates = "/etc/albatross-deployer/ca.pem"
        [build]
        mirage-3 = "registry.local:5000/mirage:3"
        mirage-4 = "localhost/mirage-4"
        deadline = 60_000
        [albatross]
        path = "Mail:relay"
        deadline = 1
        [access]
        group = "deployers"
        "#,
    )])
    .unwrap();
    let expected = Config {
        publish: Publish {
            drain: Duration::ZERO,
            loopback: false,
            fall_back: true,
            ports: PortRanges(["80/tcp", "443", "1024-65535"].map(|range| range.parse().unwrap()).into()),
            take_over: PortRanges(vec!["22/tcp".parse().unwrap()]),
        },
        collect: Collect { keep_previous: 7, automatic: true },
        limits: Limits { image_size: 1000, store_size: 1001, concurrent_deploys: 1, job_history: 0 },
        images: Images {
            docker_socket: "/run/podman/podman.sock".into(),
            insecure_registries: vec!["127.0.0.1:5000".into(), "[::1]:5000".into()],
            auth_file: Some("/root/.docker/config.json".into()),
            keys: vec!["RWShCiDeO43pLx53fHkyzTrs07sbnQivdhPaCKuL7SkxPtcC6VBxRaW8".parse().unwrap()],
            cache_size: 1 << 40,
        },
        git: Git {
            ssh_key: Some("/etc/albatross-deployer/id_ed25519".into()),
            known_hosts: Some("/etc/albatross-deployer/known hosts".into()),
            certificates: Some("/etc/albatross-deployer/ca.pem".into()),
        },
        build: Build {
            bases: BaseImages {
                mirage_3: "registry.local:5000/mirage:3".parse().ok(),
                mirage_4: "localhost/mirage-4".parse().ok(),
            },
            deadline: Duration::from_secs(60),
        },
        albatross: Albatross { path: "mail:relay".into(), deadline: Duration::from_millis(1) },
        access: Access { group: "deployers".into() },
        ..Config::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn later_files_replace_keys_of_earlier_ones() {
    let config = loaded(&[
        (
            "",
            "[network.br0]\nprefix = \"10.0.0.0/24\"\nexclude = [\"10.0.0.2\"]\n[publish]\ndrain = 1\nloopback = false",
        ),
        ("20-late.toml", "[network.br0]\ngateway = \"10.0.0.9\"\nexclude = []\n[publish]\ndrain = 3"),
        ("10-early.toml", "[network.br0]\ngateway = \"10.0.0.8\"\n[publish]\ndrain = 2"),
        ("30-not-toml.conf", "what is this?"),
        (".40-hidden.toml", "what is this?"),
    ])
    .unwrap();
    assert_eq!(config.publish, Publish { drain: Duration::from_millis(3), loopback: false, ..Publish::default() });
    assert_eq!(config.networks[0].gateway, Some("10.0.0.9".parse().unwrap()));
    assert_eq!(config.networks[0].exclude, []);
}

#[test]
fn the_only_network_is_the_default_one() {
    let one = "[network.br0]\nprefix = \"10.0.0.0/24\"\n";
    let two = "[network.br1]\nprefix = \"10.0.1.0/24\"\n";
    let default = |text: &str| loaded(&[("", text)]).unwrap().default_network.map(|name| name.to_string());
    assert_eq!(default(one).as_deref(), Some("br0"));
    assert_eq!(default(&format!("{one}{two}")), None);
    assert_eq!(default(&format!("default-network = \"br1\"\n{one}{two}")).as_deref(), Some("br1"));
    // Without tables the networks are the host's: whether it is there shows later.
    assert_eq!(default("default-network = \"br7\"").as_deref(), Some("br7"));
}

#[test]
fn refusals_name_file_line_and_key() {
    for (text, expected) in [
        (
            "x = 1",
            "config.toml:1: x: unknown key, expected one of default-network, network, publish, collect, limits, images, git, build, albatross, access",
        ),
        (
            "\n[publish]\ndrains = 1",
            "config.toml:3: publish.drains: unknown key, expected one of drain, loopback, fall-back, ports, take-over",
        ),
        ("[collect]\nkeep = 1", "config.toml:2: collect.keep: unknown key, expected one of keep-previous, automatic"),
        (
            "[limits]\nx.y = 1",
            "config.toml:2: limits.x: unknown key, expected one of image-size, store-size, concurrent-deploys, job-history",
        ),
        (
            "[images]\nx = 1",
            "config.toml:2: images.x: unknown key, expected one of docker-socket, insecure-registries, auth-file, keys, cache-size",
        ),
        ("[git]\nx = 1", "config.toml:2: git.x: unknown key, expected one of ssh-key, known-hosts, certificates"),
        ("[build]\nx = 1", "config.toml:2: build.x: unknown key, expected one of mirage-3, mirage-4, deadline"),
        (
            "[git]\nssh-key = \"id\"",
            "config.toml:2: git.ssh-key: \"id\" is not valid here, expected an absolute path without '\"', '\\' and control characters, or \"\" for none",
        ),
        (
            "[git]\nknown-hosts = '/a\"b'",
            "config.toml:2: git.known-hosts: '/a\"b' is not valid here, expected an absolute path without '\"', '\\' and control characters, or \"\" for none",
        ),
        (
            "[build]\ndeadline = 0",
            "config.toml:2: build.deadline: 0 is not valid here, expected milliseconds, a whole number from 1 to 86400000",
        ),
        ("[albatross]\nx = 1", "config.toml:2: albatross.x: unknown key, expected one of path, deadline"),
        ("[access]\nx = 1", "config.toml:2: access.x: unknown key, expected one of group"),
        (
            "[network.br0]\nx = 1",
            "config.toml:2: network.br0.x: unknown key, expected one of prefix, gateway, exclude, manage",
        ),
        ("publish = 1", "config.toml:1: publish: 1 is not valid here, expected a table"),
        ("network = []", "config.toml:1: network: [] is not valid here, expected a table"),
        ("network.br0 = 1", "config.toml:1: network.br0: 1 is not valid here, expected a table"),
        (
            "[publish]\nloopback = \"yes\"",
            "config.toml:2: publish.loopback: \"yes\" is not valid here, expected true or false",
        ),
        (
            "[publish]\nports = \"80\"",
            "config.toml:2: publish.ports: \"80\" is not valid here, expected a list of ports such as \"443\" or \"1024-65535/tcp\"",
        ),
        (
            "[publish]\ntake-over = [\"22/tcp\",\n\"22/ssh\"]",
            "config.toml:3: publish.take-over: \"22/ssh\" names no ports: write PORT or FROM-TO, from 1 to 65535, with /tcp or /udp behind where it is one of them only",
        ),
        (
            "[publish]\ndrain = -1",
            "config.toml:2: publish.drain: -1 is not valid here, expected milliseconds, a whole number from 0 to 86400000",
        ),
        (
            "[publish]\ndrain = 86400001",
            "config.toml:2: publish.drain: 86400001 is not valid here, expected milliseconds, a whole number from 0 to 86400000",
        ),
        (
            "[albatross]\ndeadline = \"10 s\"",
            "config.toml:2: albatross.deadline: \"10 s\" is not valid here, expected milliseconds, a whole number from 1 to 600000",
        ),
        (
            "[albatross]\npath = \"a::b\"",
            "config.toml:2: albatross.path: \"a::b\" is not valid here, expected labels of 1 to 63 letters, digits, '-' and '.' with ':' between them, or \"\" for the root",
        ),
        (
            "[collect]\nkeep-previous = 1.5",
            "config.toml:2: collect.keep-previous: 1.5 is not valid here, expected a whole number from 0 to 1000",
        ),
        (
            "[limits]\nimage-size = \"256 MB\"",
            "config.toml:2: limits.image-size: \"256 MB\" is not valid here, expected a size of at least one byte such as \"256 MiB\" (KiB, MiB, GiB or TiB) or a whole number of bytes",
        ),
        (
            "[limits]\nimage-size = 0",
            "config.toml:2: limits.image-size: 0 is not valid here, expected a size of at least one byte such as \"256 MiB\" (KiB, MiB, GiB or TiB) or a whole number of bytes",
        ),
        (
            "[limits]\nconcurrent-deploys = 0",
            "config.toml:2: limits.concurrent-deploys: 0 is not valid here, expected a whole number from 1 to 1000",
        ),
        (
            "[images]\ndocker-socket = \"run\"",
            "config.toml:2: images.docker-socket: \"run\" is not valid here, expected an absolute path",
        ),
        (
            "[images]\ninsecure-registries = \"x\"",
            "config.toml:2: images.insecure-registries: \"x\" is not valid here, expected a list of registries",
        ),
        (
            "[images]\ninsecure-registries = [\n  \"a:1\",\n  \"http://b\"]",
            "config.toml:4: images.insecure-registries: \"http://b\" is not valid here, expected a registry as HOST or HOST:PORT",
        ),
        ("[images]\nkeys = [1]", "config.toml:2: images.keys: 1 is not valid here, expected a minisign public key"),
        (
            "[images]\nkeys = [\n  \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\",\n  \"minisign.pub\"]",
            "config.toml:4: images.keys: not a public key of minisign: write the second line of its .pub file, which begins \
             with RW and has 56 characters",
        ),
        (
            "[access]\ngroup = \"a b\"",
            "config.toml:2: access.group: \"a b\" is not valid here, expected a group's name",
        ),
        ("default-network = 1", "config.toml:1: default-network: 1 is not valid here, expected a bridge's name"),
    ] {
        assert_eq!(message(text), expected);
    }
}

#[test]
fn refusals_of_networks() {
    let br0 = "[network.br0]\nprefix = \"10.0.0.0/24\"\n";
    for (text, expected) in [
        (
            "[network.\"a b\"]",
            "config.toml:1: network.a b: network \"a b\" is not valid: a bridge's name: 1 to 15 characters of a-z, A-Z, 0-9, '-', '_' and '.', not beginning with '-' or '.'",
        ),
        (
            "\n[network.br0]\nmanage = true",
            "config.toml:2: network.br0: prefix is missing: add a line such as prefix = \"10.0.0.0/24\"",
        ),
        (
            "[network.br0]\nprefix = \"10.0.0.0/32\"",
            "config.toml:2: network.br0.prefix: \"10.0.0.0/32\" is not valid here, expected an IPv4 prefix from /8 to /31 such as \"10.0.0.0/24\"",
        ),
        (
            "[network.br0]\nprefix = \"10.0.0.0/7\"",
            "config.toml:2: network.br0.prefix: \"10.0.0.0/7\" is not valid here, expected an IPv4 prefix from /8 to /31 such as \"10.0.0.0/24\"",
        ),
        (
            "[network.br0]\nprefix = \"fd00::/64\"",
            "config.toml:2: network.br0.prefix: \"fd00::/64\" is not valid here, expected an IPv4 prefix from /8 to /31 such as \"10.0.0.0/24\"",
        ),
        (
            "[network.br0]\nprefix = \"10.0.0.1/24\"",
            "config.toml:2: network.br0.prefix: \"10.0.0.1/24\" is not valid here, expected \"10.0.0.0/24\", the prefix without an address in it",
        ),
        (
            &format!("{br0}gateway = \"10.0.0\""),
            "config.toml:3: network.br0.gateway: \"10.0.0\" is not valid here, expected an address such as \"10.0.0.1\"",
        ),
        (
            &format!("{br0}gateway = \"10.0.1.1\""),
            "config.toml:3: network.br0.gateway: 10.0.1.1 is not the address of a host in 10.0.0.0/24, the network's prefix",
        ),
        (
            &format!("{br0}gateway = \"10.0.0.255\""),
            "config.toml:3: network.br0.gateway: 10.0.0.255 is not the address of a host in 10.0.0.0/24, the network's prefix",
        ),
        (
            &format!("{br0}gateway = \"fd00::1\""),
            "config.toml:3: network.br0.gateway: fd00::1 is not the address of a host in 10.0.0.0/24, the network's prefix",
        ),
        (
            &format!("{br0}exclude = [\"10.0.0.1\",\n\"10.0.0.9-10.0.0.2\"]"),
            "config.toml:4: network.br0.exclude: \"10.0.0.9-10.0.0.2\" excludes nothing: write an address, a range FIRST-LAST with FIRST not above LAST, or a prefix such as 10.0.0.128/25",
        ),
        (
            &format!("default-network = \"br9\"\n{br0}"),
            "config.toml:1: default-network: there is no table [network.br9]: add it, or name one of br0",
        ),
        (
            &format!("{br0}[network.br1]\nprefix = \"10.0.0.128/25\""),
            "config.toml:4: network.br1.prefix: 10.0.0.128/25 overlaps 10.0.0.0/24 of network br0 (config.toml:2): give each network addresses of its own",
        ),
    ] {
        assert_eq!(message(text), expected);
    }
}

#[test]
fn a_conflict_between_files_names_both() {
    let error = loaded(&[
        ("", "[network.br0]\nprefix = \"10.0.0.0/24\"\ngateway = \"10.0.0.1\""),
        ("a.toml", "\n[network.br0]\nprefix = \"10.1.0.0/24\""),
    ]);
    let expected = "config.toml:3: network.br0.gateway: 10.0.0.1 is not the address of a host in 10.1.0.0/24, the network's prefix";
    assert_eq!(error.unwrap_err(), expected);
    let error = loaded(&[
        ("a.toml", "[network.br1]\nprefix = \"10.0.0.0/8\""),
        ("", "[network.br0]\nprefix = \"10.0.0.0/24\""),
    ]);
    let expected = "config.toml.d/a.toml:2: network.br1.prefix: 10.0.0.0/8 overlaps 10.0.0.0/24 of network br0 (config.toml:2): give each network addresses of its own";
    assert_eq!(error.unwrap_err(), expected);
}

#[test]
fn what_is_no_toml() {
    assert_eq!(
        message("[publish]\ndrain = \n"),
        "config.toml:2: string values must be quoted, expected literal string"
    );
    assert_eq!(message("[publish]\n[publish]\n"), "config.toml:2: duplicate key");
    assert_eq!(
        message("[publish]\nx = \"\u{1}\""),
        "config.toml:2: invalid basic string, expected non-double-quote visible characters, `\\`"
    );
}

#[test]
fn what_is_no_text_or_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, b"[publish]\n# \xff").unwrap();
    assert_eq!(load(&file).unwrap_err().to_string(), format!("{}:2: expected text in UTF-8", file.display()));
    fs::write(&file, vec![b'\n'; 1024 * 1024 + 1]).unwrap();
    let expected = format!("{}: cannot be read: it is longer than 1 MiB", file.display());
    assert_eq!(load(&file).unwrap_err().to_string(), expected);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(load(&file).unwrap_err().to_string().contains(": cannot be read: "));
}
