//! The executable: reads flags and configuration, opens what is needed, serves until it is told to stop.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use albatross_deployer::bus::{self, AccessSettings, BusAddress};
use albatross_deployer::config::{self, Config};
use albatross_deployer::ledger::Ledger;
use albatross_deployer::orchestrator::{self, Assembled, Parts};
use albatross_deployer::{albatross, images, privilege};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const HELP: &str = "\
albatross-deployer: deploys unikernels on Albatross and publishes them, as a D-Bus service

Usage: albatross-deployer [FLAGS]

  --bus system|session|ADDRESS   the bus to serve on (system)
  --config FILE                  configuration, with fragments in FILE.d/*.toml (/etc/albatross-deployer/config.toml)
  --state-directory DIR          ledger and images (/var/lib/albatross-deployer)
  --albatross-directory DIR      the folder that holds Albatross's util/ (/run/albatross)
  --version                      print the version
  --help                         print this

The log goes to the journal, or to standard error when that is no service's; RUST_LOG chooses what (info).
";

/// Calls that work get this long to be undone when the service is told to stop. systemd waits a little longer: see TimeoutStopSec
/// of the unit.
const STOP: Duration = Duration::from_secs(20);

struct Flags {
    bus: BusAddress,
    config: PathBuf,
    state_directory: PathBuf,
    albatross_directory: PathBuf,
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|flag| flag == images::worker::FLAG) {
        return images::worker::run();
    }
    let flags = match flags() {
        Ok(Some(flags)) => flags,
        Ok(None) => return ExitCode::SUCCESS,
        Err(message) => return refuse(&format!("{message}; --help shows the flags")),
    };
    start_log();
    let config = match config::load(&flags.config) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if !config.managed.is_empty() {
        warn!("manage of a network is not acted on by this version: make the bridge");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error),
    };
    let outcome = runtime.block_on(serve(flags, config));
    // Threads that hash or copy an image for a call that is gone are not waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

/// Says in the log why the service does not start or cannot go on.
fn refuse(why: &dyn Display) -> ExitCode {
    if tracing::dispatcher::has_been_set() {
        error!("{why}");
    } else {
        write_error(why);
    }
    ExitCode::FAILURE
}

fn write_error(why: &dyn Display) {
    use std::io::Write;
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "albatross-deployer: {why}");
}

fn flags() -> Result<Option<Flags>, String> {
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
    let bus = arguments.opt_value_from_str("--bus").map_err(|error| error.to_string())?.unwrap_or(BusAddress::System);
    match arguments.finish().as_slice() {
        [] => Ok(Some(Flags { bus, config, state_directory, albatross_directory })),
        [unknown, ..] => Err(format!("{} is not a flag", unknown.display())),
    }
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // systemd sets it for what it starts; the journal keeps the fields then.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(tracing_subscriber::fmt::layer().with_ansi(terminal).with_writer(std::io::stderr)).init();
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn serve(flags: Flags, config: Config) -> Result<(), Failure> {
    privilege::keep_what_is_useful();
    let access = AccessSettings { group: config.access.group.clone() };
    let parts = open(&flags, config)?;
    let Assembled { orchestrator, initial, events, runner } = orchestrator::assemble(parts)?;
    runner.look().await;
    // The name before the table: to put many ports into the kernel takes longer, and calls that come before wait for it.
    let serving = bus::serve(&flags.bus, access, orchestrator.clone(), initial, events).await?;
    tokio::spawn(runner.run());
    info!(version = env!("CARGO_PKG_VERSION"), bus = %flags.bus, "ready");
    tell_systemd(&[sd_notify::NotifyState::Ready]);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = serving.closed() => return Err("the bus has ended: start again when it is back".into()),
    }
    info!("stopping");
    tell_systemd(&[sd_notify::NotifyState::Stopping]);
    orchestrator.stop(STOP).await;
    serving.stop().await;
    Ok(())
}

fn open(flags: &Flags, config: Config) -> Result<Parts, Failure> {
    make_private(&flags.state_directory)?;
    let (ledger, contents) = Ledger::open(&flags.state_directory.join("state.redb"))?;
    let store = images::Store::open(&flags.state_directory.join("images"), config.limits.image_size)?;
    let store = store.with_room(config.limits.store_size);
    let albatross = albatross::Client::new(albatross::Settings {
        directory: flags.albatross_directory.clone(),
        path: config.albatross.path.clone(),
        deadline: config.albatross.deadline,
    })?;
    Ok(Parts { config, state_directory: flags.state_directory.clone(), ledger, contents, store, albatross })
}

/// The ledger holds arguments, which can be secrets.
fn make_private(directory: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| format!("cannot make the state directory {}: {error}", directory.display()).into())
}

fn tell_systemd(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd was not told");
    }
}
