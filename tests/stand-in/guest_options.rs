//! What a guest obeys. A tender joins the arguments with single spaces; the guest splits the line as a shell would.

use crate::guest_mail;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The words of a command line: white space separates them, `'…'`, `"…"` and `\c` keep it.
pub fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// What a guest does with a connection in place of answering.
#[derive(Debug, Clone, Copy)]
pub enum Misbehaviour {
    Silence,
    /// Bytes that are no HTTP, and the end.
    Garbage,
    /// A head without an end, as fast as it is taken.
    Endless,
    /// A head without an end, a byte at a time.
    Drip,
}

impl Misbehaviour {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "silence" => Self::Silence,
            "garbage" => Self::Garbage,
            "endless" => Self::Endless,
            "drip" => Self::Drip,
            _ => return None,
        })
    }
}

/// `--name=` twice, or an option that is not known, ends the guest with 64.
#[derive(Debug, Clone, Default)]
pub struct GuestOptions {
    /// `--ipv4=ADDR/LEN`
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// `--ipv4-gateway=ADDR`
    pub gateway: Option<Ipv4Addr>,
    /// `--port=80`: HTTP over TCP, echo over UDP
    pub port: u16,
    /// `--version=TEXT`: what it answers, in place of the image's
    pub version: String,
    /// `--exit=CODE`: ends at once
    pub exit: Option<u8>,
    /// `--exit-after=MS:CODE`
    pub exit_after: Option<(Duration, u8)>,
    /// `--no-link`: never opens its network device
    pub no_link: bool,
    /// `--stuck`: ignores SIGTERM
    pub stuck: bool,
    /// `--listen-after=MS`: until then connections are refused
    pub listen_after: Duration,
    /// `--echo-after=MS`: how long a datagram waits for its answer
    pub echo_after: Duration,
    /// `--print=TEXT`, any number of times
    pub print: Vec<String>,
    /// `--print-rate=N`: lines a second for ever; 0: as fast as they are taken
    pub print_rate: Option<u64>,
    /// `--print-invalid`: a line with a NUL and bytes that are not UTF-8
    pub print_invalid: bool,
    /// `--answer=silence|garbage|endless|drip`: accepts, and is no web server
    pub answer: Option<Misbehaviour>,
    /// `--virtual-host=HOST`: requests for another host are refused
    pub virtual_host: Option<String>,
    /// `--mail`: a mail server on port 25, in place of a web server
    pub mail: bool,
    /// `--relay=ADDR`: whom `GET /relay` and `GET /chain` ask, and to whom a mail server would hand on
    pub relay: Option<String>,
    pub name: Option<String>,
}

impl GuestOptions {
    pub fn parse(version: String, knows_name: bool, words: &[String]) -> Result<Self, String> {
        let mut options = Self { port: 80, version, ..Self::default() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix('-') else { continue };
            match option.split_once('=').unwrap_or((option, "")) {
                ("l", "") => drop(words.next()), // the log level of MirageOS
                ("-name", _) if !knows_name => return Err("unknown option --name".into()),
                ("-name", _) if options.name.is_some() => return Err("option --name cannot be repeated".into()),
                ("-name", name) => options.name = Some(name.to_owned()),
                (key, value) => options.set(key, value).ok_or_else(|| format!("unknown or bad option {word}"))?,
            }
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        let milliseconds = |text: &str| text.parse().ok().map(Duration::from_millis);
        match key {
            "-ipv4" => {
                let (address, length) = value.split_once('/')?;
                self.ipv4 = Some((address.parse().ok()?, length.parse().ok().filter(|length| *length <= 32)?));
            }
            "-ipv4-gateway" => self.gateway = Some(value.parse().ok()?),
            "-port" => self.port = value.parse().ok()?,
            "-version" => self.version = value.to_owned(),
            "-exit" => self.exit = Some(value.parse().ok()?),
            "-exit-after" => {
                let (after, code) = value.split_once(':')?;
                self.exit_after = Some((milliseconds(after)?, code.parse().ok()?));
            }
            "-no-link" => self.no_link = true,
            "-stuck" => self.stuck = true,
            "-echo-after" => self.echo_after = milliseconds(value)?,
            "-listen-after" => self.listen_after = milliseconds(value)?,
            "-print" => self.print.push(value.to_owned()),
            "-print-rate" => self.print_rate = Some(value.parse().ok()?),
            "-print-invalid" => self.print_invalid = true,
            "-answer" => self.answer = Some(Misbehaviour::parse(value)?),
            "-virtual-host" => self.virtual_host = Some(value.to_owned()),
            "-mail" => {
                self.mail = true;
                self.port = guest_mail::PORT;
            }
            "-relay" => self.relay = Some(value.to_owned()),
            _ => return None,
        }
        Some(())
    }
}
