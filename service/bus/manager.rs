//! The Manager: every method of the service.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedObjectPath, Variant, interface};

use super::arguments::{self, RawOptions};
use super::entrance::Entrance;
use super::error::Failure;
use super::objects::Shown;
use super::{path, rows};
use crate::domain::ManagerView;
use crate::orchestrator::{self, ApplyRequest, Deployed, ImageSource};

#[derive(Debug)]
pub struct Manager {
    view: watch::Receiver<Arc<ManagerView>>,
    entrance: Entrance,
}

impl Manager {
    async fn deploy_from(
        &self,
        service: &str,
        image: ImageSource,
        options: RawOptions,
    ) -> Result<(OwnedObjectPath, String, String), Failure> {
        let request = arguments::deploy(service, image, options)?;
        let deployed = self.entrance.orchestrator.deploy(request).await;
        let Deployed { id, address } = self.entrance.after_events(deployed).await?;
        Ok((path::unikernel(&id), id.to_string(), address.to_string()))
    }
}

impl Shown for Manager {
    type View = ManagerView;

    fn path(_: &ManagerView) -> OwnedObjectPath {
        ObjectPath::from_static_str_unchecked(path::ROOT).into()
    }

    fn showing(view: watch::Receiver<Arc<ManagerView>>, entrance: &Entrance) -> Self {
        Self { view, entrance: entrance.clone() }
    }
}

#[interface(name = "org.albatross.Deployer1.Manager")]
impl Manager {
    /// Makes a unikernel of a service run and be ready, and returns its object, id and address. Nothing is published:
    /// call Publish to send traffic to it. The same configuration is the same unikernel: it is returned as it is, once it
    /// is ready by this call's rule, which counts from then on, with timeout, check and check-failures.
    ///
    /// service: 1 to 52 characters of a-z, 0-9, '-' and '.', not beginning with '-' or '.'.
    ///
    /// image: an absolute path of a Solo5 image, opened with the caller's rights; sha256:HEX of a stored one;
    /// docker-daemon:NAME[:TAG] of the local engine; docker-archive:PATH[:NAME:TAG], oci-archive:PATH[:NAME] or
    /// oci:FOLDER[:NAME] of a saved one; docker://REGISTRY/NAME[:TAG][@DIGEST]; or git+https://, git+ssh:// or git+file:///
    /// with #REF, which the engine builds.
    ///
    /// options: network s (bridge; the default network), memory t (MiB; 32), cpu u (core; the least used), args as
    /// (templates: {address}, {prefix-length}, {gateway}, {network}, {id}, {service}; {{ and }} are braces), prefix s,
    /// exclude as and address s (where the lease comes from; the network's own), block-devices a(ssu) (device, Albatross
    /// block device, sector size or 0), restart s (never, on-failure), restart-exit-codes ai, ready s (running, tcp:PORT,
    /// http:PORT/PATH, http://HOST:PORT/PATH for a virtual host at the unikernel's own address, console:REGEX for a line that
    /// it prints; running. An http rule may end with the statuses that mean ready, as in ;status=200-299,401, else 200-399;
    /// in a path ;status= is written %3Bstatus=), timeout t (milliseconds to become ready; 30000), check t (milliseconds
    /// between checks whether a tcp or http rule still holds while it is live, 100 to 86400000; 0: none), check-failures u
    /// (so many in a row, 1 to 1000, are named by Degraded, and taken for its end by the configuration's fall-back; 3),
    /// image-path s (in a container image or a build; /unikernel.hvt, then /unikernel.spt), signature s (what minisign wrote
    /// of the image, where the configuration has keys; the file beside it with .minisig after its name). Of git+ images:
    /// mirage s (3 or 4; 4), config-file s (config.ml), mirage-args as, extra-instructions as, opam-repository-commit s, or
    /// dockerfile s (a file of the repository to build by instead).
    ///
    /// restart on-failure, the default: Albatross starts it again at once when it ends with an exit code (of
    /// restart-exit-codes, where given), but never after 1 or 60 to 64, nor after a signal.
    ///
    /// Errors: InvalidArgument, NotAuthorized, AddressPoolExhausted, AddressInUse, ImageInvalid, ImageUnavailable,
    /// ImageTooLarge, BuildFailed, AlbatrossUnavailable, AlbatrossRefused, NotReady, KernelRefused, Cancelled. After an error nothing
    /// of it is left.
    #[zbus(out_args("unikernel", "id", "address"))]
    async fn deploy(
        &self,
        service: &str,
        image: &str,
        options: RawOptions,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(OwnedObjectPath, String, String), Failure> {
        let caller = self.entrance.admit(connection, &header).await?;
        self.deploy_from(service, arguments::image(image, caller)?, options).await
    }

    /// Deploy with the image handed over as a readable file descriptor: a file, a memfd or a pipe. It is read to its
    /// end, up to the configured size. Options and errors are those of Deploy, but for the options that are about the image:
    /// of those there is signature.
    #[zbus(out_args("unikernel", "id", "address"))]
    async fn deploy_image(
        &self,
        service: &str,
        image: zbus::OwnedFd,
        options: RawOptions,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(OwnedObjectPath, String, String), Failure> {
        self.entrance.admit(connection, &header).await?;
        let image = ImageSource::Descriptor { file: File::from(OwnedFd::from(image)), signature: None };
        self.deploy_from(service, image, options).await
    }

    /// Redirects ports of the host to a unikernel of the service, which then is live. What was live before keeps its
    /// connections until they end or the drain time is over; there is no moment without the port.
    ///
    /// ports: (tcp, udp or any; host port; port of the unikernel). They replace what the service had published.
    ///
    /// A unikernel that is not ready yet is waited for, within its own readiness rule.
    ///
    /// options: unikernel s (id; of those of the service that are ready the one that was deployed last, as Revision tells,
    /// also where that deployment found it running), addresses as (the host's own IPv4 addresses to publish on;
    /// all), sources as (IPv4 prefixes that may connect; any. Where fewer may than before, UDP of the others is cut at once
    /// and their TCP connections are reset when drain is over), drain t (milliseconds; the configuration's).
    ///
    /// Errors: InvalidArgument, NotAuthorized (also a port that the configuration keeps for root), NoSuchService,
    /// NoSuchUnikernel, NotReady, PortConflict (another service has it, or a process of the host listens there and
    /// take-over of the configuration does not name it), InUse (the service is of a stack), KernelRefused, Cancelled. After
    /// an error everything is as it was.
    async fn publish(
        &self,
        service: &str,
        ports: Vec<(String, u16, u16)>,
        options: RawOptions,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Failure> {
        let caller = self.entrance.admit(connection, &header).await?;
        let request = arguments::publish(service, ports, options, caller)?;
        self.entrance.after_events(self.entrance.orchestrator.publish(request).await).await
    }

    /// Takes a service off all host ports. Its unikernels go on running, and open connections may finish.
    ///
    /// Errors: InvalidArgument, NotAuthorized, NoSuchService, InUse (the service is of a stack), KernelRefused.
    async fn unpublish(
        &self,
        service: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Failure> {
        self.entrance.admit(connection, &header).await?;
        let service = arguments::service(service)?;
        self.entrance.after_events(self.entrance.orchestrator.unpublish(service).await).await
    }

    /// Makes the unikernel live again that was live before, on the ports of today, and returns its object. One that has
    /// ended is deployed again first, from its stored image and under its old address; until it is ready what is live
    /// stays live.
    ///
    /// Errors: InvalidArgument, NotAuthorized, NoSuchService, NoSuchUnikernel (there is none to go back to), NotReady,
    /// InUse (the service is of a stack), KernelRefused, Cancelled, and where it has ended those of Deploy.
    #[zbus(out_args("unikernel"))]
    async fn rollback(
        &self,
        service: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedObjectPath, Failure> {
        self.entrance.admit(connection, &header).await?;
        let service = arguments::service(service)?;
        let live = self.entrance.after_events(self.entrance.orchestrator.rollback(service).await).await?;
        Ok(path::unikernel(&live))
    }

    /// Removes what nothing needs any more, and returns it as (publication, unikernel, lease or image; name). What a stack
    /// has live, staged or previous stays.
    ///
    /// options: dry-run b (only say what would go), keep as (services whose publications stay: all others are
    /// unpublished first; without it every publication stays), force b (do not wait for draining), keep-previous u (how
    /// many earlier unikernels of a service stay for Rollback; the configuration's).
    ///
    /// Errors: InvalidArgument, NotAuthorized, AlbatrossUnavailable, AlbatrossRefused, KernelRefused, Cancelled.
    #[zbus(out_args("removed"))]
    async fn collect(
        &self,
        options: RawOptions,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<(String, String)>, Failure> {
        self.entrance.admit(connection, &header).await?;
        let request = arguments::collect(options)?;
        let removed = self.entrance.after_events(self.entrance.orchestrator.collect(request).await).await?;
        Ok(removed.into_iter().map(|removed| (removed.kind().to_string(), removed.to_string())).collect())
    }

    /// Starts a unikernel again, with the same configuration and address.
    ///
    /// Errors: InvalidArgument, NotAuthorized, NoSuchUnikernel, InUse (another call works on it), AlbatrossUnavailable,
    /// AlbatrossRefused, NotReady, Cancelled, and where it has ended those of Deploy.
    async fn restart(
        &self,
        id: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Failure> {
        self.entrance.admit(connection, &header).await?;
        let id = arguments::unikernel(id)?;
        self.entrance.after_events(self.entrance.orchestrator.restart(id).await).await
    }

    /// Ends a unikernel and releases its address.
    ///
    /// options: force b (also while it is live: its service is unpublished first; also while a stack has it staged).
    ///
    /// Errors: InvalidArgument, NotAuthorized, NoSuchUnikernel, InUse (it is live or staged, or another call works on it),
    /// AlbatrossUnavailable, AlbatrossRefused.
    async fn destroy(
        &self,
        id: &str,
        options: RawOptions,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Failure> {
        self.entrance.admit(connection, &header).await?;
        let (id, force) = (arguments::unikernel(id)?, arguments::force(options)?);
        self.entrance.after_events(self.entrance.orchestrator.destroy(id, force).await).await
    }

    /// Makes the services of a manifest run as one chain, staged: all are ready and published on their staged ports, and
    /// what is live stays as it is until Activate is called. Returns the stack's object. A member whose image and
    /// configuration have not changed is the running one; where nothing has changed, nothing happens.
    ///
    /// manifest: TOML. stack is the name; each table [service.NAME] is a member with its image, ports and staged (lists of
    /// HOST:UNIKERNEL, with /tcp, /udp or /any behind where it is not tcp), addresses, sources and drain as of Publish,
    /// watch (such as "10m": its image is looked at again so often, and applied when it has changed), and the options of
    /// Deploy. The options of Deploy but address can stand at the top for all members; image, ports, staged, addresses,
    /// sources, drain and watch cannot. {NAME.address} in args is the address of another member: one starts when those that
    /// it names are ready.
    ///
    /// options: activate b (Activate as soon as all are ready).
    ///
    /// Errors: InvalidArgument (with line and column; also a cycle, a member that there is not, a host port of two
    /// members), NotAuthorized (also a port that the configuration keeps for root), PortConflict (a host port of another
    /// service or stack, or one on which a process of the host listens), those of Deploy with the member
    /// in front, Cancelled. After an error what was live is live, and nothing that was started for this is left; of what
    /// failed later than at the first look the stack's State is failed, and LastResult says why.
    #[zbus(out_args("stack"))]
    async fn apply(
        &self,
        manifest: String,
        options: RawOptions,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<OwnedObjectPath, Failure> {
        let caller = self.entrance.admit(connection, &header).await?;
        let activate = arguments::apply(options)?;
        // One with many patterns takes a second to read.
        let read = spawn_blocking(move || arguments::manifest(&manifest)).await;
        let manifest = read.map_err(|_| orchestrator::Error::Defect)??;
        let request = ApplyRequest { manifest, caller, activate, watched: None };
        let applied = self.entrance.after_events(self.entrance.orchestrator.apply(request).await).await?;
        Ok(path::stack(&applied))
    }

    /// Makes the staged chain of a stack live: the ports of all its members go to it in one move, and the chain that was
    /// live is the previous one. Open connections of that one may finish. Nothing happens where nothing is staged but a
    /// chain is live.
    ///
    /// Errors: InvalidArgument, NotAuthorized (also a port that the configuration keeps for root), NoSuchStack, NotReady
    /// (nothing is staged or live), InUse (another call works on it), PortConflict, KernelRefused, Cancelled, and where a
    /// member has ended those of Deploy. After an error everything is as it was.
    async fn activate(
        &self,
        stack: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Failure> {
        let caller = self.entrance.admit(connection, &header).await?;
        let stack = arguments::stack(stack)?;
        self.entrance.after_events(self.entrance.orchestrator.activate(stack, caller).await).await
    }

    /// Makes the chain of a stack live again that was live before, in one move; the one that is live becomes the previous
    /// one. Members that are gone are deployed again first; until they are ready what is live stays live.
    ///
    /// Errors: InvalidArgument, NotAuthorized (also a port that the configuration keeps for root), NoSuchStack,
    /// NoSuchUnikernel (there is no chain to go back to), NotReady, InUse (another call works on it), PortConflict,
    /// KernelRefused, Cancelled, and where a member is gone those of Deploy. After an error everything is as it was.
    async fn rollback_stack(
        &self,
        stack: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Failure> {
        let caller = self.entrance.admit(connection, &header).await?;
        let stack = arguments::stack(stack)?;
        self.entrance.after_events(self.entrance.orchestrator.rollback_stack(stack, caller).await).await
    }

    /// Takes a stack off all host ports in one move, and ends its unikernels when their connections have ended or their
    /// drain time is over.
    ///
    /// Errors: InvalidArgument, NotAuthorized, NoSuchStack, InUse (an Apply of it works), KernelRefused,
    /// AlbatrossUnavailable, AlbatrossRefused, Cancelled.
    async fn remove_stack(
        &self,
        stack: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Failure> {
        self.entrance.admit(connection, &header).await?;
        let stack = arguments::stack(stack)?;
        self.entrance.after_events(self.entrance.orchestrator.remove_stack(stack).await).await
    }

    /// The chains of a stack in the language of Graphviz: members with their addresses, ports and states, and who names
    /// whom. dot makes a picture of it. Everybody may call it.
    ///
    /// Errors: InvalidArgument, NoSuchStack.
    #[zbus(out_args("graph"))]
    async fn export_graph(&self, stack: &str) -> Result<String, Failure> {
        Ok(self.entrance.orchestrator.export_graph(arguments::stack(stack)?).await?)
    }

    /// Leases an address of a prefix to a tag and returns it. The same tag and a prefix that still fits give the same
    /// address. Nothing is configured anywhere: the address only is not given to anybody else.
    ///
    /// tag: 1 to 255 bytes without control characters. prefix: such as 10.0.0.0/24. exclude: what is not to be given,
    /// each an address, a range FIRST-LAST or a prefix.
    ///
    /// Errors: InvalidArgument, NotAuthorized, AddressPoolExhausted, InUse (the tag is a unikernel's).
    #[zbus(out_args("address"))]
    async fn allocate_address(
        &self,
        tag: &str,
        prefix: &str,
        exclude: Vec<String>,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String, Failure> {
        self.entrance.admit(connection, &header).await?;
        let tag = arguments::tag(tag)?;
        let (prefix, exclude) = (arguments::prefix("prefix", prefix)?, arguments::exclusions("exclude", &exclude)?);
        let address = self.entrance.orchestrator.allocate_address(tag, prefix, exclude).await;
        Ok(self.entrance.after_events(address).await?.to_string())
    }

    /// Gives the address of a tag back and returns it.
    ///
    /// Errors: InvalidArgument, NotAuthorized, NoSuchLease, InUse (a unikernel has it).
    #[zbus(out_args("address"))]
    async fn release_address(
        &self,
        tag: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<String, Failure> {
        self.entrance.admit(connection, &header).await?;
        let released = self.entrance.orchestrator.release_address(arguments::tag(tag)?).await;
        Ok(self.entrance.after_events(released).await?.to_string())
    }

    /// The addresses that are held: (tag, address, prefix, since when in microseconds since the epoch). Everybody may
    /// call it.
    #[zbus(out_args("leases"))]
    async fn list_leases(&self) -> Result<Vec<rows::Lease>, Failure> {
        Ok(self.entrance.orchestrator.leases().await?.iter().map(rows::lease).collect())
    }

    /// What is published, a row for each host port: (service, id of the live unikernel, tcp or udp, host address or
    /// empty for any, host port, unikernel's address, unikernel's port). Everybody may call it.
    #[zbus(out_args("publications"))]
    async fn list_publications(&self) -> Result<Vec<rows::Publication>, Failure> {
        Ok(rows::publications(&self.entrance.orchestrator.publications().await?))
    }

    /// The jobs that are running and the last ones that ended: (object, kind, subject, running or its result: done,
    /// failed, cancelled). The object of one that has ended is not there any more. Everybody may call it.
    #[zbus(out_args("jobs"))]
    async fn list_jobs(&self) -> Result<Vec<rows::Job>, Failure> {
        Ok(self.entrance.orchestrator.jobs().await?.iter().map(rows::job).collect())
    }

    /// The service's nftables table as nftables' own JSON, loadable with nft -j -f. Everybody may call it.
    ///
    /// Errors: KernelRefused.
    #[zbus(out_args("ruleset"))]
    async fn export_ruleset(&self) -> Result<String, Failure> {
        Ok(self.entrance.orchestrator.export_ruleset().await?)
    }

    /// The console of a unikernel as a pipe: lines from before, then lines as they come, as the unikernel printed them,
    /// each with a newline. It ends when the unikernel is gone for good; close it to end it before. A unikernel never
    /// waits for a reader: who reads too slowly loses lines, and finds a line that says where and how many.
    ///
    /// options: lines u (as many from before, 0 for none; all that are kept, at most 1024) or since x (those from before
    /// that are of this time or later, in microseconds since the epoch).
    ///
    /// Errors: InvalidArgument, NotAuthorized, NoSuchUnikernel, InUse (256 consoles are open).
    #[zbus(out_args("console"))]
    async fn open_console(
        &self,
        id: &str,
        options: RawOptions,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<zbus::OwnedFd, Failure> {
        self.entrance.admit(connection, &header).await?;
        let (id, history) = (arguments::unikernel(id)?, arguments::history(options)?);
        Ok(self.entrance.orchestrator.open_console(id, history).await?.into())
    }

    /// The last lines of a unikernel's console, the oldest first: (microseconds since the epoch, line). Also of one that
    /// has ended. Bytes that are not UTF-8, and NUL, are the replacement character here; OpenConsole has them as they are.
    ///
    /// lines: at most so many; 0: all that are kept, at most 1024.
    ///
    /// Errors: InvalidArgument, NotAuthorized, NoSuchUnikernel.
    #[zbus(out_args("lines"))]
    async fn read_console(
        &self,
        id: &str,
        lines: u32,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<rows::ConsoleLine>, Failure> {
        self.entrance.admit(connection, &header).await?;
        let (id, lines) = (arguments::unikernel(id)?, arguments::console_lines(lines));
        Ok(self.entrance.orchestrator.read_console(id, lines).await?.iter().map(rows::console_line).collect())
    }

    /// A unikernel has come into another state. One that has just appeared has no state before: old_state is empty.
    ///
    /// details: restarts u, exit-reason s and started-at x (microseconds since the epoch), where they are known.
    #[zbus(signal)]
    pub async fn unikernel_state_changed(
        emitter: &SignalEmitter<'_>,
        unikernel: ObjectPath<'_>,
        id: &str,
        old_state: &str,
        new_state: &str,
        details: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<()>;

    /// The ports of a service go to another unikernel from now on. from_id is empty when nothing was live before, to_id
    /// when nothing is any more.
    #[zbus(signal)]
    pub async fn service_switched(
        emitter: &SignalEmitter<'_>,
        service: &str,
        from_id: &str,
        to_id: &str,
    ) -> zbus::Result<()>;

    /// A job has ended: done, failed or cancelled.
    #[zbus(signal)]
    pub async fn job_removed(emitter: &SignalEmitter<'_>, job: ObjectPath<'_>, result: &str) -> zbus::Result<()>;

    /// The version of this service.
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// The version of Albatross's protocol and what its daemon understands.
    #[zbus(property)]
    fn albatross_version(&self) -> String {
        self.view.borrow().albatross_version.clone()
    }

    /// What does not work now and what to do about it; empty when all is well. Each line goes by itself.
    #[zbus(property)]
    fn degraded(&self) -> Vec<String> {
        self.view.borrow().degraded.clone()
    }

    /// How many services there are.
    #[zbus(property)]
    fn service_count(&self) -> u32 {
        self.view.borrow().services
    }

    /// How many unikernels there are, in whatever state.
    #[zbus(property)]
    fn unikernel_count(&self) -> u32 {
        self.view.borrow().unikernels
    }

    /// How many addresses are held.
    #[zbus(property)]
    fn lease_count(&self) -> u32 {
        self.view.borrow().leases
    }
}
