//! Who may change something: root, members of one group, and whoever the service itself runs as.
//!
//! Reading is open to everyone who reaches the bus: properties, ListLeases, ListPublications, ListJobs, ExportRuleset and
//! ExportGraph show nothing secret (a unikernel's arguments are never shown). The service's own user is let in so
//! that an instance on a session or private bus can be used by the person who started it; on the system bus the
//! service runs as root and the rule adds nobody. The policy file of the bus says the same for the group `albatross`;
//! this check holds on every bus and for the group of the configuration.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use zbus::Connection;
use zbus::fdo::ConnectionCredentials;
use zbus::message::Header;

use super::error::Failure;
use crate::domain::Caller;
use crate::orchestrator::ErrorKind;

/// Callers whose credentials are remembered. The bus never gives a unique name twice, so an entry is never wrong.
const REMEMBERED: usize = 256;
/// For the account database, which can be a directory server on the network.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(10);

/// Knows who is calling, and lets in who may change something.
#[derive(Debug, Default)]
pub struct Gate {
    known: Mutex<VecDeque<(String, Identity)>>,
}

/// A caller, and what the account database said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    caller: Caller,
    /// The user's name where it has one.
    user: Option<String>,
    /// The group whose members may change something.
    group_name: String,
    /// Its id where it exists.
    group: Option<u32>,
}

impl Gate {
    /// The caller of a method that changes something. `group`: whose members may, of the configuration that holds now.
    ///
    /// # Errors
    /// NotAuthorized, in words that say who may and how to become one of them.
    pub async fn admit(&self, connection: &Connection, header: &Header<'_>, group: String) -> Result<Caller, Failure> {
        let sender = header.sender().ok_or_else(|| unknown_caller("the call names no sender"))?.as_str();
        let identity = match self.recall(sender, &group) {
            Some(identity) => identity,
            None => self.identify(connection, sender, group).await?,
        };
        if may_change(&identity, uzers::get_effective_uid()) {
            return Ok(identity.caller);
        }
        let method = header.member().map_or("this", |member| member.as_str());
        let uid = identity.caller.uid;
        tracing::warn!(uid, method, "{method} was refused to user {uid}, who has no right to change anything here");
        Err(Failure::new(ErrorKind::NotAuthorized, refusal(&identity, method)))
    }

    /// What was found out before, also about this group: the configuration may have had another one then.
    fn recall(&self, sender: &str, group: &str) -> Option<Identity> {
        let known = self.known.lock().ok()?;
        let same = |(name, identity): &&(String, Identity)| name == sender && identity.group_name == group;
        known.iter().find(same).map(|(_, identity)| identity.clone())
    }

    fn remember(&self, sender: &str, identity: &Identity) {
        if let Ok(mut known) = self.known.lock() {
            if known.len() == REMEMBERED {
                known.pop_front();
            }
            known.push_back((sender.to_owned(), identity.clone()));
        }
    }

    async fn identify(&self, connection: &Connection, sender: &str, group: String) -> Result<Identity, Failure> {
        let credentials = credentials(connection, sender).await.map_err(|error| unknown_caller(&error.to_string()))?;
        let uid = credentials.unix_user_id().ok_or_else(|| unknown_caller("the bus does not know its user"))?;
        let groups = credentials.into_unix_group_ids();
        let lookup = tokio::task::spawn_blocking(move || look_up(uid, groups, group));
        let identity = tokio::time::timeout(LOOKUP_DEADLINE, lookup)
            .await
            .map_err(|_| unknown_caller("the account database does not answer"))?
            .map_err(|error| unknown_caller(&error.to_string()))?;
        self.remember(sender, &identity);
        Ok(identity)
    }
}

async fn credentials(connection: &Connection, sender: &str) -> zbus::Result<ConnectionCredentials> {
    let (bus, path) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
    let reply = connection.call_method(Some(bus), path, Some(bus), "GetConnectionCredentials", &(sender)).await?;
    reply.body().deserialize()
}

fn unknown_caller(reason: &str) -> Failure {
    Failure::new(ErrorKind::NotAuthorized, format!("cannot find out who is calling: {reason}"))
}

/// Blocks: the account database is files or another service.
///
/// The groups are those of the calling process as the bus saw it connect. Only a bus that does not tell them (before
/// dbus 1.13) leaves it to the database, which can know more groups than the process has.
fn look_up(uid: u32, groups: Option<Vec<u32>>, group_name: String) -> Identity {
    let user = uzers::get_user_by_uid(uid);
    let primary = user.as_ref().map(uzers::User::primary_group_id);
    let groups = groups.unwrap_or_else(|| {
        let of_user = user.as_ref().and_then(|user| uzers::get_user_groups(user.name(), user.primary_group_id()));
        of_user.unwrap_or_default().iter().map(uzers::Group::gid).collect()
    });
    Identity {
        caller: Caller { uid, gid: primary_of(primary, &groups), groups },
        user: user.map(|user| user.name().to_string_lossy().into_owned()),
        group: uzers::get_group_by_name(&group_name).map(|group| group.gid()),
        group_name,
    }
}

/// The bus tells a process's groups sorted, not which one is its own: that is the user's, if the process still has it.
fn primary_of(primary: Option<u32>, groups: &[u32]) -> u32 {
    /// The kernel's overflow group, `nogroup`: a gid that gives no rights.
    const NOBODY: u32 = 65534;
    primary.filter(|gid| groups.contains(gid)).or_else(|| groups.first().copied()).unwrap_or(NOBODY)
}

fn may_change(identity: &Identity, own: u32) -> bool {
    let Caller { uid, gid, groups } = &identity.caller;
    *uid == 0 || *uid == own || identity.group.is_some_and(|group| *gid == group || groups.contains(&group))
}

fn refusal(identity: &Identity, method: &str) -> String {
    let group = &identity.group_name;
    let uid = identity.caller.uid;
    let who = identity.user.as_ref().map_or(format!("user {uid}"), |user| format!("user {user} ({uid})"));
    let user = identity.user.as_deref().unwrap_or("USER");
    let way = match identity.group {
        Some(_) => format!("usermod -aG {group} {user}, and a new login"),
        None => format!(
            "groupadd --system {group}, usermod -aG {group} {user}, and a new login: there is no such group yet"
        ),
    };
    format!("{who} may not call {method}: root and members of the group {group} may; to become one: {way}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(uid: u32, groups: &[u32], group: Option<u32>) -> Identity {
        let caller = Caller { uid, gid: primary_of(None, groups), groups: groups.to_vec() };
        Identity { caller, user: Some("alice".into()), group_name: "albatross".into(), group }
    }

    #[test]
    fn root_the_group_and_the_services_own_user_may() {
        assert!(may_change(&identity(0, &[], None), 500));
        assert!(may_change(&identity(500, &[], None), 500));
        assert!(may_change(&identity(1000, &[1000, 7], Some(7)), 0));
        assert!(!may_change(&identity(1000, &[1000, 7], Some(8)), 0));
        assert!(!may_change(&identity(1000, &[1000, 7], None), 0));
    }

    #[test]
    fn a_refusal_says_how_to_get_in() {
        let message = refusal(&identity(1000, &[], Some(7)), "Deploy");
        assert!(message.contains("alice (1000)") && message.contains("usermod -aG albatross alice"), "{message}");
        assert!(refusal(&identity(1000, &[], None), "Deploy").contains("groupadd"));
    }

    #[test]
    fn a_group_that_the_process_gave_up_is_not_its_own() {
        assert_eq!(primary_of(Some(5), &[4, 5]), 5);
        assert_eq!(primary_of(Some(5), &[4, 6]), 4);
        assert_eq!(primary_of(None, &[]), 65534);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let gate = Gate::default();
        for number in 0..1000 {
            gate.remember(&format!(":1.{number}"), &identity(number, &[], None));
        }
        assert_eq!(gate.known.lock().unwrap().len(), REMEMBERED);
        assert!(gate.recall(":1.0", "albatross").is_none());
        assert_eq!(gate.recall(":1.999", "albatross").unwrap().caller.uid, 999);
        assert!(gate.recall(":1.999", "another").is_none(), "a reload may have changed the group");
    }
}
