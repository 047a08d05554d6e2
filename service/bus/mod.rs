//! The face of the service on D-Bus: what the contract names, and nothing else.
//!
//! ```text
//!   call ──> interface ──> authorization ──> arguments ──> Orchestrator ──> answer, after the events of the call
//!                                                               │
//!   signals, objects, properties <── publisher <── events ──────┘
//! ```
//!
//! Objects hold an id, a handle of the owner of state and a snapshot to show: reading a property asks nobody.

pub mod arguments;
mod authorization;
mod entrance;
mod error;
mod job;
mod manager;
mod objects;
mod path;
mod publisher;
mod rows;
mod service;
mod stack;
mod unikernel;

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::{ObjectManager, RequestNameFlags};

use crate::domain::Event;
use crate::orchestrator::{InitialViews, Orchestrator};
use entrance::Entrance;
use publisher::Publisher;

/// The well-known name of the service.
pub const BUS_NAME: &str = "org.albatross.Deployer1";

/// For what the service itself asks of the bus.
const BUS_DEADLINE: Duration = Duration::from_secs(10);

/// Which bus to serve on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusAddress {
    System,
    Session,
    /// A D-Bus address such as `unix:path=/run/user/1000/bus`.
    Address(String),
}

impl FromStr for BusAddress {
    type Err = Infallible;

    /// The form of the command line: `system`, `session`, or an address.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "system" => Self::System,
            "session" => Self::Session,
            address => Self::Address(address.to_owned()),
        })
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("the system bus"),
            Self::Session => f.write_str("the session bus"),
            Self::Address(address) => write!(f, "the bus at {address}"),
        }
    }
}

/// Why the service could not come to the bus.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to {address}: is it running, and may this user connect? ({source})")]
    Connect { address: BusAddress, source: zbus::Error },
    #[error("cannot put the objects on {address}: {source}")]
    Objects { address: BusAddress, source: zbus::Error },
    #[error(
        "another instance of the service owns {BUS_NAME} on {address}: stop it (systemctl stop albatross-deployer), or \
         serve on another bus with --bus"
    )]
    NameTaken { address: BusAddress },
    #[error(
        "{address} does not give the name {BUS_NAME}: is dbus-policy/{BUS_NAME}.conf installed in \
         /usr/share/dbus-1/system.d, and does this user own the name there? ({source})"
    )]
    NameRefused { address: BusAddress, source: zbus::Error },
}

/// The service on a bus. It stays there until it is stopped or the bus ends.
#[derive(Debug)]
pub struct Bus {
    connection: Connection,
    entrance: Entrance,
    publisher: JoinHandle<()>,
}

impl Bus {
    /// Returns when the bus has closed the connection: nobody can reach the service any more.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Gives the name back, so that no new call arrives, and waits until what has happened so far is told.
    pub async fn stop(self) {
        if let Err(error) = self.connection.release_name(BUS_NAME).await {
            tracing::warn!(%error, "the name could not be given back to the bus: {error}");
        }
        let told = async {
            // The first is reached when the objects are as they should be; the signals go out before the second.
            self.entrance.events_taken_in().await;
            self.entrance.events_taken_in().await;
        };
        if tokio::time::timeout(BUS_DEADLINE, told).await.is_err() {
            tracing::warn!("signals of the last events may be missing: the bus did not take them in time");
        }
        self.publisher.abort();
    }
}

/// Serves on a bus: first the objects, then the name, so that whoever sees the name finds everything there.
///
/// # Errors
/// When the bus cannot be reached, does not give the name, or somebody else has it.
pub async fn serve(
    address: &BusAddress,
    orchestrator: Orchestrator,
    initial: InitialViews,
    events: mpsc::Receiver<Event>,
) -> Result<Bus, Error> {
    let connection = connect(address).await.map_err(|source| Error::Connect { address: address.clone(), source })?;
    let (entrance, barriers) = Entrance::new(orchestrator);
    let publisher = objects(&connection, &entrance, initial)
        .await
        .map_err(|source| Error::Objects { address: address.clone(), source })?;
    request_name(&connection, address).await?;
    let publisher = tokio::spawn(publisher.run(events, barriers));
    Ok(Bus { connection, entrance, publisher })
}

async fn connect(address: &BusAddress) -> zbus::Result<Connection> {
    let builder = match address {
        BusAddress::System => Builder::system(),
        BusAddress::Session => Builder::session(),
        BusAddress::Address(address) => Builder::address(address.as_str()),
    };
    builder.method_timeout(BUS_DEADLINE).build().await
}

async fn objects(connection: &Connection, entrance: &Entrance, initial: InitialViews) -> zbus::Result<Publisher> {
    let mut publisher = Publisher::new(connection, entrance);
    publisher.start(initial).await?;
    // Last: from here on every object that appears is told of.
    connection.object_server().at(path::ROOT, ObjectManager).await?;
    Ok(publisher)
}

async fn request_name(connection: &Connection, address: &BusAddress) -> Result<(), Error> {
    // zbus's default would let any other connection take the name away.
    match connection.request_name_with_flags(BUS_NAME, RequestNameFlags::DO_NOT_QUEUE).await {
        Ok(_) => Ok(()),
        Err(zbus::Error::NameTaken) => Err(Error::NameTaken { address: address.clone() }),
        Err(source) => Err(Error::NameRefused { address: address.clone(), source }),
    }
}
