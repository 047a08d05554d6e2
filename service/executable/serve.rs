//! From what is opened to the end of the service.

use std::path::Path;
use std::time::Duration;

use albatross_deployer::bus::{self, Bus};
use albatross_deployer::config::Config;
use albatross_deployer::ledger::Ledger;
use albatross_deployer::orchestrator::{self, Assembled, Orchestrator, Parts};
use albatross_deployer::{albatross, images, privilege};
use tokio::time::timeout;
use tracing::info;

use super::flags::Flags;
use super::signals::{Signals, Stop};
use super::{reload, systemd};

/// Calls that work get this long to be undone when the service is told to stop. systemd waits a little longer: see TimeoutStopSec
/// of the unit.
const STOP: Duration = Duration::from_secs(20);

/// For a signal that has arrived to be seen: it comes by way of a pipe.
const STOP_SEEN: Duration = Duration::from_millis(1);

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) async fn serve(flags: Flags, config: Config, signals: Signals) -> Result<(), Failure> {
    let Signals { mut stop, hangup } = signals;
    let (orchestrator, serving) = tokio::select! {
        biased;
        // Nothing is begun yet that would have to be undone.
        () = stop.wanted() => return Ok(()),
        started = start(&flags, config) => match started {
            Ok(started) => started,
            Err(error) => return unless_stopped(&mut stop, error).await,
        },
    };
    tokio::spawn(reload::follow(hangup, orchestrator.clone(), flags.config));
    tokio::select! {
        () = stop.wanted() => {}
        () = serving.closed() => {
            return unless_stopped(&mut stop, "the bus has ended: start again when it is back".into()).await;
        }
    }
    info!("albatross-deployer stops");
    systemd::stopping();
    orchestrator.stop(STOP).await;
    serving.stop().await;
    Ok(())
}

/// What fails because all of the host is being shut down, or while the service is, has not failed.
async fn unless_stopped(stop: &mut Stop, error: Failure) -> Result<(), Failure> {
    timeout(STOP_SEEN, stop.wanted()).await.map_err(|_| error)
}

async fn start(flags: &Flags, config: Config) -> Result<(Orchestrator, Bus), Failure> {
    privilege::keep_what_is_useful();
    let parts = open(flags, config)?;
    let Assembled { orchestrator, initial, events, runner } = orchestrator::assemble(parts)?;
    runner.look().await;
    // The name before the table: to put many ports into the kernel takes longer, and calls that come before wait for it.
    let serving = bus::serve(&flags.bus, orchestrator.clone(), initial, events).await?;
    tokio::spawn(runner.run());
    let (version, bus) = (env!("CARGO_PKG_VERSION"), &flags.bus);
    info!(version, %bus, "albatross-deployer {version} is ready on {bus}");
    systemd::ready();
    Ok((orchestrator, serving))
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
