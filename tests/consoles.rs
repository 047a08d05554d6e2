//! Consoles: history and live lines, readers that nobody waits for, what is left of those that have ended, and readiness
//! by a line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/host.rs"]
mod host;
#[path = "support/netns.rs"]
mod netns;
mod private_bus;
#[path = "support/solo5_image.rs"]
mod solo5_image;
#[path = "support/stand_in_process.rs"]
mod stand_in_process;

use std::time::{Duration, Instant, SystemTime};

use albatross_deployer::albatross::{Client, ConsoleHistory, Settings};
use host::{AT_ONCE, MANAGER, Manager, Options, PATIENCE, ROOT, TestHost, error_of, eventually, options};
use netns::isolated;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

/// A reader of a pipe of OpenConsole.
struct Console(BufReader<Receiver>);

impl Console {
    /// The next line as it is; `None` at the end.
    async fn bytes(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        timeout(PATIENCE, self.0.read_until(b'\n', &mut line)).await.expect("a line in time").unwrap();
        let ended = line.pop();
        assert!(ended.is_none_or(|end| end == b'\n'), "a line without an end: {line:?}");
        ended.map(|_| line)
    }

    async fn line(&mut self) -> Option<String> {
        Some(String::from_utf8(self.bytes().await?).unwrap())
    }

    async fn until(&mut self, wanted: &str) -> String {
        loop {
            let line = self.line().await.unwrap_or_else(|| panic!("the end before {wanted}"));
            if line.contains(wanted) {
                return line;
            }
        }
    }
}

impl Manager {
    async fn open(&self, id: &str, options: Options<'_>) -> zbus::Result<Console> {
        let pipe: zbus::OwnedFd = self.call("OpenConsole", &(id, options)).await?.deserialize()?;
        Ok(Console(BufReader::new(Receiver::from_owned_fd(pipe.into()).unwrap())))
    }

    async fn read(&self, id: &str, lines: u32) -> zbus::Result<Vec<(i64, String)>> {
        self.call("ReadConsole", &(id, lines)).await?.deserialize()
    }
}

async fn degraded(manager: &Manager) -> Vec<String> {
    manager.property(ROOT, MANAGER, "Degraded").await.unwrap()
}

/// The number of `line N`, which is what a printing guest prints.
fn number(line: &str) -> Option<u64> {
    line.strip_prefix("line ")?.parse().ok()
}

/// How many lines a note says are lost.
fn lost(line: &str) -> Option<u64> {
    line.strip_prefix("[albatross-deployer: ")?.strip_suffix(" lost]")?.split(' ').next()?.parse().ok()
}

fn microseconds() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}

async fn deploy(host: &TestHost, arguments: &[&str]) -> (Manager, String) {
    let manager = host.manager().await;
    let image = host.image(&format!("of-{}", arguments.join("-").replace([':', '='], "")), arguments);
    let mut options: Options<'_> = options("running");
    options.insert("restart", "never".into());
    let (id, _) = manager.deploy("website", &image, options).await.unwrap();
    (manager, id)
}

#[test]
fn history_comes_first_and_then_the_lines_as_they_come() {
    isolated("history_comes_first_and_then_the_lines_as_they_come", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let begin = microseconds();
        let (manager, id) = deploy(&host, &["--print=hello", "--print-rate=200"]).await;
        let mut console = manager.open(&id, Options::new()).await.unwrap();
        console.until("Solo5: Bindings version").await;
        console.until("hello").await;
        for expected in 0..100 {
            let line = console.until("line ").await;
            assert_eq!(number(&line), Some(expected), "{line}");
        }

        let read = manager.read(&id, 0).await.unwrap();
        assert!(read.iter().any(|(_, line)| line == "hello") && read.is_sorted_by_key(|(at, _)| *at), "{read:?}");
        assert!(read.iter().all(|(at, _)| (begin - 1_000..=microseconds()).contains(at)), "{read:?}");
        let last = manager.read(&id, 3).await.unwrap();
        assert_eq!(last.len(), 3);
        assert!(number(&last[0].1).unwrap() >= 97, "{last:?}");
        assert!(manager.read(&id, 5_000).await.unwrap().len() > 100);

        let since = i64::MAX;
        let mut new = manager.open(&id, Options::from([("since", since.into())])).await.unwrap();
        let mut none = manager.open(&id, Options::from([("lines", 0u32.into())])).await.unwrap();
        let mut two = manager.open(&id, Options::from([("lines", 2u32.into())])).await.unwrap();
        let lines = [
            none.line().await.unwrap(),
            new.line().await.unwrap(),
            two.line().await.unwrap(),
            two.line().await.unwrap(),
        ];
        let numbers = lines.iter().map(|line| number(line).unwrap()).collect::<Vec<_>>();
        assert!(numbers[0] > number(&last[2].1).unwrap() && numbers[1] >= numbers[0] - 20, "{numbers:?}");
        assert_eq!(numbers[3], numbers[2] + 1);
        let middle = read[read.len() / 2].0;
        let mut later = manager.open(&id, Options::from([("since", middle.into())])).await.unwrap();
        let first = read.iter().position(|(at, _)| *at >= middle).unwrap();
        assert_eq!(later.line().await.unwrap(), read[first].1);

        let both = Options::from([("lines", 2u32.into()), ("since", 5i64.into())]);
        for (options, word) in [(both, "do not go together"), (Options::from([("tail", 1u32.into())]), "tail")] {
            let (name, message) = error_of(manager.open(&id, options).await.map(|_| ()));
            assert!(name == "InvalidArgument" && message.contains(word), "{message}");
        }
        for (id, expected) in [("website.0000000000", "NoSuchUnikernel"), ("website", "InvalidArgument")] {
            assert_eq!(error_of(manager.read(id, 1).await).0, expected);
            assert_eq!(error_of(manager.open(id, Options::new()).await.map(|_| ())).0, expected);
        }
    });
}

#[test]
fn a_slow_reader_loses_lines_and_nobody_waits_for_it() {
    isolated("a_slow_reader_loses_lines_and_nobody_waits_for_it", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, id) = deploy(&host, &["--print-rate=0"]).await;
        let mut console = manager.open(&id, Options::from([("lines", 0u32.into())])).await.unwrap();
        let first = number(&console.until("line ").await).unwrap();
        let last = async || number(&manager.read(&id, 1).await.unwrap()[0].1).unwrap();
        // More than the pipe and the ring hold.
        eventually("it goes on printing", async || last().await > first + 30_000).await;
        let (mut expected, mut notes) = (first + 1, 0);
        while notes < 2 {
            let line = console.line().await.unwrap();
            if let Some(lost) = lost(&line) {
                (expected, notes) = (expected + lost, notes + 1);
                assert!(lost > 0);
                // Stop again, to lose some once more.
                let now = last().await;
                eventually("it goes on printing", async || last().await > now + 30_000).await;
            } else {
                assert_eq!(number(&line), Some(expected), "{line}");
                expected += 1;
            }
        }
    });
}

/// KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn one_that_prints_without_end_costs_bounded_memory_and_holds_nobody_up() {
    isolated("one_that_prints_without_end_costs_bounded_memory_and_holds_nobody_up", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, id) = deploy(&host, &["--print-rate=0"]).await;
        // Some that read nothing, and one that reads.
        let mut readers = Vec::new();
        for _ in 0..8 {
            readers.push(manager.open(&id, Options::new()).await.unwrap());
        }
        let mut reading = readers.pop().unwrap();
        let reading = tokio::spawn(async move { while reading.bytes().await.is_some() {} });
        sleep(Duration::from_secs(1)).await;
        let (before, from) = (resident(host.service_pid()), manager.read(&id, 1).await.unwrap());
        let mut slowest = Duration::ZERO;
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let begin = Instant::now();
            manager.leases().await.unwrap();
            slowest = slowest.max(begin.elapsed());
            sleep(Duration::from_millis(10)).await;
        }
        let (after, to) = (resident(host.service_pid()), manager.read(&id, 1).await.unwrap());
        let lines = number(&to[0].1).unwrap() - number(&from[0].1).unwrap();
        println!("{lines} lines in 3 s; {before} KiB, then {after} KiB; slowest answer {slowest:?}");
        assert!(lines > 1_000);
        assert!(after < before + 4 * 1024, "{before} KiB, then {after} KiB");
        assert!(slowest < AT_ONCE, "{slowest:?}");
        let begin = Instant::now();
        manager.deploy("other", &host.image("other", &[]), options("http:80/")).await.unwrap();
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
        drop(readers);
        manager.call("Destroy", &(&id, Options::new())).await.unwrap();
        timeout(PATIENCE, reading).await.unwrap().unwrap();
    });
}

#[test]
fn bytes_that_are_not_utf8_stay_as_they_are_in_the_pipe() {
    isolated("bytes_that_are_not_utf8_stay_as_they_are_in_the_pipe", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, id) = deploy(&host, &["--print=before", "--print-invalid"]).await;
        let mut console = manager.open(&id, Options::new()).await.unwrap();
        console.until("before").await;
        assert_eq!(console.bytes().await.unwrap(), b"caf\xc3\xa9 \xff\xfe\0bin");
        let read = manager.read(&id, 0).await.unwrap();
        assert!(read.iter().any(|(_, line)| line == "café \u{fffd}\u{fffd}\u{fffd}bin"), "{read:?}");
    });
}

#[test]
fn one_that_has_ended_keeps_its_lines() {
    isolated("one_that_has_ended_keeps_its_lines", |_| async {
        let Some(mut host) = TestHost::start().await else { return };
        let (manager, id) = deploy(&host, &["--print=hello", "--print-rate=100", "--exit-after=600:3"]).await;
        let mut console = manager.open(&id, Options::new()).await.unwrap();
        console.until("solo5_exit(3)").await;
        let whole = manager.read(&id, 0).await.unwrap();
        assert!(whole.len() > 30 && whole.last().unwrap().1.contains("solo5_exit(3)"), "{whole:?}");
        let path = format!("{}/unikernel/{}", host::ROOT, id.replace('.', "_2e"));
        let state = async |manager: &Manager| {
            let interface = "org.albatross.Deployer1.Unikernel";
            manager.property::<String>(&path, interface, "State").await.unwrap_or_default()
        };
        eventually("the end", async || state(&manager).await == "exited").await;

        host.kill_service();
        assert!(console.line().await.is_none(), "the pipe ends with the service");
        host.start_service().await;
        let manager = host.manager().await;
        assert_eq!(manager.read(&id, 0).await.unwrap(), whole, "the history from before");

        host.kill_service();
        assert_eq!(host.albatross.control("console-restart"), "ok");
        host.start_service().await;
        let manager = host.manager().await;
        let stored = manager.read(&id, 0).await.unwrap();
        assert_eq!(stored, whole[whole.len() - 24..]);
        assert_eq!(manager.read(&id, 2).await.unwrap(), stored[22..]);
        let mut console = manager.open(&id, Options::from([("lines", 2u32.into())])).await.unwrap();
        assert_eq!(console.line().await.unwrap(), stored[22].1);
        console.until("solo5_exit(3)").await;

        // With neither, and the console daemon away.
        host.kill_service();
        host.albatross.control("console-restart 3000");
        host.start_service().await;
        let manager = host.manager().await;
        assert_eq!(manager.read(&id, 0).await.unwrap(), stored);
        manager.call("Destroy", &(&id, Options::new())).await.unwrap();
        assert_eq!(error_of(manager.read(&id, 0).await).0, "NoSuchUnikernel");
    });
}

#[test]
fn a_lost_subscription_costs_and_doubles_no_line() {
    isolated("a_lost_subscription_costs_and_doubles_no_line", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, id) = deploy(&host, &["--print-rate=500"]).await;
        let mut console = manager.open(&id, Options::from([("lines", 0u32.into())])).await.unwrap();
        let mut expected = number(&console.line().await.unwrap()).unwrap() + 1;
        let directory = host.albatross.directory().to_owned();
        let client = Client::new(Settings { directory, path: String::new(), deadline: PATIENCE }).unwrap();
        for _ in 0..5 {
            // The console daemon serves six: with these it drops the service.
            let mut others = Vec::new();
            for _ in 0..6 {
                let mut stream = client.console(&id.parse().unwrap(), ConsoleHistory::All, PATIENCE).await.unwrap();
                others.push(tokio::spawn(async move { while stream.lines().await.is_ok() {} }));
            }
            let dropped = Instant::now();
            while dropped.elapsed() < Duration::from_millis(300) {
                let line = console.line().await.unwrap();
                assert_eq!(number(&line), Some(expected), "{line}");
                expected += 1;
            }
            others.iter().for_each(|other| other.abort());
        }
        assert!(expected > 300);
        let read = manager.read(&id, 0).await.unwrap();
        let numbers = read.iter().filter_map(|(_, line)| number(line)).collect::<Vec<_>>();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    });
}

#[test]
fn a_console_goes_on_when_the_daemons_do() {
    isolated("a_console_goes_on_when_the_daemons_do", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, id) = deploy(&host, &["--print-rate=50"]).await;
        let mut console = manager.open(&id, Options::from([("lines", 0u32.into())])).await.unwrap();
        console.until("line 20").await;
        assert_eq!(host.albatross.control("console-restart 700"), "ok");
        sleep(Duration::from_millis(300)).await;
        assert!(manager.read(&id, 0).await.unwrap().len() > 20, "what was said before stays");
        let last = console_rest(&mut console).await;
        sleep(Duration::from_millis(700)).await;
        assert_eq!(degraded(&manager).await, [] as [&str; 0]);
        let other = host.image("2", &[]);
        for _ in 0..2 {
            let (name, message) = error_of(manager.deploy("other", &other, options("running")).await);
            assert_eq!(
                (name.as_str(), message.as_str()),
                ("AlbatrossRefused", "could not create unikernel: console failed")
            );
            let says_so = async || degraded(&manager).await.iter().any(|note| note.contains("restart albatrossd"));
            eventually("what to do", says_so).await;
        }
        // Albatross starts it again, and with that its console.
        assert_eq!(host.albatross.control("restart-self"), "ok");
        console.until("Solo5: Bindings version").await;
        manager.deploy("other", &other, options("running")).await.unwrap();
        eventually("all is well", async || degraded(&manager).await.is_empty()).await;
        let line = console.until("line ").await;
        assert_eq!(number(&line), Some(0), "a new life after {last}");
    });
}

/// Reads on until nothing comes.
async fn console_rest(console: &mut Console) -> String {
    let mut last = String::new();
    while let Ok(Some(line)) = timeout(Duration::from_millis(200), console.line()).await {
        last = line;
    }
    last
}

#[test]
fn only_who_may_change_things_may_read() {
    isolated("only_who_may_change_things_may_read", |_| async {
        let Some(host) = TestHost::without_service_on(private_bus::OPEN, None) else { return };
        let mut host = host;
        host.start_service().await;
        let (_, id) = deploy(&host, &["--print=secret"]).await;
        if !rustix::process::geteuid().is_root() || std::env::var_os("ALBATROSS_TEST_IN_USER_NAMESPACE").is_some() {
            return println!("SKIPPED: only root can call as somebody else");
        }
        for (member, types, argument) in [("ReadConsole", "su", "5"), ("OpenConsole", "sa{sv}", "0")] {
            let mut call = std::process::Command::new("setpriv");
            call.args(["--reuid=65534", "--regid=65534", "--clear-groups", "busctl"]);
            call.arg(format!("--address={}", host.bus.address));
            call.args(["call", host::NAME, host::ROOT, host::MANAGER, member, types, &id, argument]);
            let output = tokio::task::spawn_blocking(move || call.output()).await.unwrap().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("may not call"), "{said}");
            assert!(!String::from_utf8_lossy(&output.stdout).contains("secret"));
        }
    });
}

#[test]
fn a_pipe_ends_with_the_unikernels_record() {
    isolated("a_pipe_ends_with_the_unikernels_record", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, id) = deploy(&host, &["--print=hello"]).await;
        let mut console = manager.open(&id, Options::new()).await.unwrap();
        console.until("hello").await;
        manager.call("Restart", &(&id,)).await.unwrap();
        console.until("hello").await;
        manager.call("Destroy", &(&id, Options::new())).await.unwrap();
        while console.line().await.is_some() {}
        assert_eq!(error_of(manager.open(&id, Options::new()).await.map(|_| ())).0, "NoSuchUnikernel");
    });
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn places_for_readers_are_bounded_and_become_free() {
    isolated("places_for_readers_are_bounded_and_become_free", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let (manager, id) = deploy(&host, &["--print=hello"]).await;
        let before = descriptors(host.service_pid());
        let mut readers = Vec::new();
        for _ in 0..256 {
            readers.push(manager.open(&id, Options::new()).await.unwrap());
        }
        let (name, message) = error_of(manager.open(&id, Options::new()).await.map(|_| ()));
        assert!(name == "InUse" && message.contains("256"), "{message}");
        readers[255].until("hello").await;
        // Nothing is printed, and it is noticed all the same.
        drop(readers.pop());
        eventually("a free place", async || match manager.open(&id, Options::new()).await {
            Ok(console) => {
                readers.push(console);
                true
            }
            Err(_) => false,
        })
        .await;
        drop(readers);
        eventually("all closed", async || descriptors(host.service_pid()) <= before).await;
    });
}

#[test]
fn ready_by_a_line_of_the_console() {
    isolated("ready_by_a_line_of_the_console", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let image = host.image("1", &["--listen-after=400", "--print-invalid"]);
        let begin = Instant::now();
        let (id, _) =
            manager.deploy("website", &image, options("console:^version=1 .*listening on [0-9]+$")).await.unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
        let (bytes, _) = manager.deploy("bytes", &image, options(r"console:(?-u)\xff\xfe")).await.unwrap();
        manager.call("Destroy", &(&bytes, Options::new())).await.unwrap();

        // What it said in an earlier life does not make it ready in this one.
        let begin = Instant::now();
        manager.call("Restart", &(&id,)).await.unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
        manager.call("Destroy", &(&id, Options::new())).await.unwrap();
        let begin = Instant::now();
        let (again, _) =
            manager.deploy("website", &image, options("console:^version=1 .*listening on [0-9]+$")).await.unwrap();
        assert_eq!(again, id);
        assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
        // Nor when it has ended by itself.
        host.albatross.control(&format!("lose {id}"));
        let path = format!("{}/unikernel/{}", host::ROOT, id.replace('.', "_2e"));
        eventually("the end", async || {
            let state = manager.property::<String>(&path, "org.albatross.Deployer1.Unikernel", "State").await;
            state.as_deref() == Some("exited")
        })
        .await;
        let begin = Instant::now();
        manager.call("Restart", &(&id,)).await.unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    });
}

#[test]
fn not_ready_by_a_line_that_does_not_come() {
    isolated("not_ready_by_a_line_that_does_not_come", |_| async {
        let Some(host) = TestHost::start().await else { return };
        let manager = host.manager().await;
        let with = |ready: &'static str, timeout: u64| {
            let mut options: Options<'_> = options(ready);
            options.insert("timeout", timeout.into());
            options.insert("restart", "never".into());
            options
        };
        let silent = host.image("silent", &["--print=something else"]);
        let (name, message) = error_of(manager.deploy("website", &silent, with("console:^ready$", 2_000)).await);
        assert_eq!(name, "NotReady", "{message}");
        assert!(message.contains("no line of its console matches ^ready$"), "{message}");
        assert!(message.contains("something else"), "{message}");
        let exits = host.image("exits", &["--print=almost", "--exit=3"]);
        let begin = Instant::now();
        let (name, message) = error_of(manager.deploy("website", &exits, with("console:^ready$", 60_000)).await);
        assert!(name == "NotReady" && message.contains("exited") && message.contains("solo5_exit(3)"), "{message}");
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
        // One that prints without end is not ready by that, and holds nothing up.
        let noisy = host.image("noisy", &["--print-rate=0"]);
        let (name, message) = error_of(manager.deploy("website", &noisy, with("console:(x+x+)+y", 1_000)).await);
        assert_eq!(name, "NotReady", "{message}");
        for (ready, word) in [
            ("console:", "empty"),
            ("console:a(b", "unclosed group"),
            ("console:[", "unclosed character class"),
            (r"console:(\w{999}){999}", "compiled"),
            (r"console:(?P<a>x)\1", "backreference"),
        ] {
            let (name, message) = error_of(manager.deploy("website", &silent, with(ready, 500)).await);
            assert!(name == "InvalidArgument" && message.contains(word), "{ready}: {message}");
        }
        let long = format!("console:{}", "x".repeat(1025));
        let (name, message) = error_of(manager.deploy("website", &silent, options(&long)).await);
        assert!(name == "InvalidArgument" && message.contains("1024"), "{message}");
        assert!(host.running().is_empty() && manager.leases().await.unwrap().is_empty());
    });
}
