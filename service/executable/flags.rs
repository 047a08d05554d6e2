//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use albatross_deployer::bus::BusAddress;

const HELP: &str = "\
albatross-deployer: deploys unikernels on Albatross and publishes them, as a D-Bus service

Usage: albatross-deployer [FLAGS]

  --bus system|session|ADDRESS   the bus to serve on (system)
  --config FILE                  configuration, with fragments in FILE.d/*.toml (/etc/albatross-deployer/config.toml)
  --state-directory DIR          ledger and images (/var/lib/albatross-deployer)
  --albatross-directory DIR      the folder that holds Albatross's util/ (/run/albatross)
  --version                      print the version
  --help                         print this

SIGHUP: reads the configuration again. SIGTERM, SIGINT: undoes what works, and ends.
The log goes to the journal, or to standard error when that is no service's; RUST_LOG chooses what (info).
";

pub(super) struct Flags {
    pub(super) bus: BusAddress,
    pub(super) config: PathBuf,
    pub(super) state_directory: PathBuf,
    pub(super) albatross_directory: PathBuf,
}

impl Flags {
    /// Those of the command line; `None`: all that was asked for has been printed.
    pub(super) fn read() -> Result<Option<Self>, String> {
        use std::io::Write;
        let mut arguments = pico_args::Arguments::from_env();
        let shown = if arguments.contains("--help") {
            Some(HELP.to_string())
        } else if arguments.contains("--version") {
            Some(format!("albatross-deployer {}\n", env!("CARGO_PKG_VERSION")))
        } else {
            None
        };
        if let Some(text) = shown {
            return std::io::stdout().write_all(text.as_bytes()).map(|()| None).map_err(|error| error.to_string());
        }
        let mut path = |flag: &'static str, default: &str| -> Result<PathBuf, String> {
            let given: Option<OsString> = arguments
                .opt_value_from_os_str(flag, |text| Ok::<_, String>(text.to_owned()))
                .map_err(|e| e.to_string())?;
            Ok(given.map_or_else(|| default.into(), PathBuf::from))
        };
        let config = path("--config", "/etc/albatross-deployer/config.toml")?;
        let state_directory = path("--state-directory", "/var/lib/albatross-deployer")?;
        let albatross_directory = path("--albatross-directory", "/run/albatross")?;
        let bus =
            arguments.opt_value_from_str("--bus").map_err(|error| error.to_string())?.unwrap_or(BusAddress::System);
        match arguments.finish().as_slice() {
            [] => Ok(Some(Self { bus, config, state_directory, albatross_directory })),
            [unknown, ..] => Err(format!("{} is not a flag", unknown.display())),
        }
    }
}
