//! Manifests of the tests: the mail stack, and stacks of whatever members a test wants.

use std::fmt::Write;

use crate::host::{ARGUMENTS, TestHost};

/// What a chain answers for its members, from the entry on.
pub type Versions = [&'static str; 3];

pub const FIRST: Versions = ["entry-1", "signer-1", "forward-1"];
pub const SECOND: Versions = ["entry-2", "signer-2", "forward-2"];
pub const THIRD: Versions = ["entry-3", "signer-3", "forward-3"];

/// Where the mail stack is live, and where it is tried.
pub const LIVE: u16 = 25;
pub const STAGED: u16 = 2525;
pub const PORTS: &str = "ports = [\"25:25\"]\nstaged = [\"2525:25\"]";

#[derive(Clone)]
pub struct Member {
    pub name: &'static str,
    pub image: String,
    /// Beside address and gateway.
    pub arguments: Vec<String>,
    pub ready: &'static str,
    /// Further lines of its table.
    pub more: String,
}

impl Member {
    pub fn new(name: &'static str, image: String) -> Self {
        Self { name, image, arguments: Vec::new(), ready: "http:80/", more: String::new() }
    }

    pub fn relay(self, to: &str) -> Self {
        self.argument(&format!("--relay={{{to}.address}}"))
    }

    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub fn ready(mut self, rule: &'static str) -> Self {
        self.ready = rule;
        self
    }

    pub fn more(mut self, lines: &str) -> Self {
        self.more += lines;
        self.more.push('\n');
        self
    }
}

/// The TOML of a stack.
pub fn manifest(stack: &str, members: &[Member]) -> String {
    let mut text = format!("stack = \"{stack}\"\nnetwork = \"br0\"\n");
    for member in members {
        let arguments = ARGUMENTS.iter().map(|word| (*word).to_owned()).chain(member.arguments.iter().cloned());
        let arguments = arguments.collect::<Vec<_>>();
        let _ = write!(
            text,
            "\n[service.{}]\nimage = {:?}\nargs = {arguments:?}\nready = {:?}\n{}",
            member.name, member.image, member.ready, member.more
        );
    }
    text
}

/// The three of the mail stack: entry, signer, forward.
pub fn members(host: &TestHost, [entry, signer, forward]: Versions) -> [Member; 3] {
    [
        Member::new("entry", host.image(entry, &["--port=25"])).relay("signer").ready("tcp:25").more(PORTS),
        Member::new("signer", host.image(signer, &[])).relay("forward"),
        Member::new("forward", host.image(forward, &[])),
    ]
}

pub fn mail(host: &TestHost, versions: Versions) -> String {
    manifest("mail", &members(host, versions))
}

/// The mail stack with something more in the table of one member.
pub fn mail_with(host: &TestHost, versions: Versions, member: &str, lines: &str) -> String {
    let members = members(host, versions).map(|one| if one.name == member { one.more(lines) } else { one });
    manifest("mail", &members)
}
