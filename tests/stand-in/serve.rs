//! The sockets: framing, one command a connection, and what misbehaves on the way.

use crate::command::{Command, ConsoleCommand, StatsCommand};
use crate::control;
use crate::daemon::{After, Daemon, Next};
use crate::options::Options;
use crate::wire::{Data, Payload, Success, Wire};
use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{LocalSet, spawn_local};

/// Statistics of a unikernel that has just begun, in a frame of the real daemon.
const STATISTICS: &[u8] = include_bytes!("../frames/stats_subscribe.reply.2.bin");
const STATISTICS_EVERY: Duration = Duration::from_secs(5);
/// Larger than any image; what claims to be more is not read.
const LARGEST_FRAME: i32 = 1 << 30;

pub fn run(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    for directory in ["util", "block"] {
        std::fs::create_dir_all(options.directory.join(directory))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let daemon = Daemon::new(options)?;
        let util = daemon.options.directory.join("util");
        spawn_local(console_daemon(Rc::clone(&daemon), accept(&daemon, &util.join("console.sock"), console)?));
        accept(&daemon, &util.join("stat.sock"), statistics)?;
        accept(&daemon, &daemon.options.directory.join("control.sock"), control::serve)?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut first = true;
        loop {
            daemon.start()?;
            let vmmd = accept(&daemon, &util.join("vmmd.sock"), vmmd)?;
            if std::mem::take(&mut first) {
                println!("ready");
            }
            let again = tokio::select! {
                _ = terminated.recv() => None,
                pause = control::restart_wanted(&daemon) => Some(pause),
            };
            vmmd.abort();
            let _ = vmmd.await;
            for exit in daemon.end_all() {
                let _ = exit.await;
            }
            match again {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Ok(()),
            }
        }
    })
}

/// Listens, and handles every connection in a task of its own.
fn accept<F: Future<Output = io::Result<()>> + 'static>(
    daemon: &Rc<Daemon>,
    path: &Path,
    handle: impl Fn(Rc<Daemon>, UnixStream) -> F + 'static,
) -> io::Result<tokio::task::JoinHandle<()>> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // To listen again sets the length of the queue: with the real daemon's of 1 clients find it full.
    rustix::net::listen(&listener, daemon.options.backlog)?;
    let daemon = Rc::clone(daemon);
    Ok(spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = handle(Rc::clone(&daemon), stream);
            spawn_local(async move {
                // That a client went away is no event: the command it sent goes on.
                let _ = connection.await;
            });
        }
    }))
}

async fn vmmd(daemon: Rc<Daemon>, mut stream: UnixStream) -> io::Result<()> {
    daemon.misbehaviour.borrow_mut().connections += 1;
    while let Some(request) = read(&daemon, &mut stream).await? {
        let kind = match &request.payload {
            Payload::Command(command) => command.kind(),
            _ => "unknown",
        };
        let fault = daemon.misbehaviour.borrow_mut().on_command(kind);
        if fault.close_before {
            return Ok(());
        }
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        let next = match fault.refuse {
            Some(text) => Next::End(Payload::Failure(text)),
            None => daemon.handle(&request),
        };
        let (payload, goes_on) = match next {
            Next::Loop(payload) => (payload, true),
            Next::End(payload) => (payload, false),
            Next::AfterExit(exit, after) => match exit.await {
                Ok(_) => (after_exit(&daemon, after), false),
                // Another command waits for the same exit now: this one is never answered.
                Err(_) => return read(&daemon, &mut stream).await.map(|_| ()),
            },
        };
        let frame = request.reply(payload).frame();
        let answer = daemon.misbehaviour.borrow_mut().on_answer(frame);
        stream.write_all(&answer.bytes).await?;
        if answer.close || !goes_on {
            return Ok(());
        }
    }
    Ok(())
}

fn after_exit(daemon: &Rc<Daemon>, after: After) -> Payload {
    daemon.dump_state();
    match after {
        After::Destroyed => Payload::success("destroyed unikernel"),
        After::Create(wanted) => match daemon.create(&wanted.0, wanted.1, true) {
            Ok(()) => Payload::success("created unikernel"),
            Err(error) => Payload::Failure(error),
        },
    }
}

/// Away for a while, each time that it was asked for.
async fn console_daemon(daemon: Rc<Daemon>, mut listening: tokio::task::JoinHandle<()>) -> io::Result<()> {
    let socket = daemon.options.directory.join("util/console.sock");
    loop {
        let pause = control::console_restart_wanted(&daemon).await;
        listening.abort();
        let _ = listening.await;
        std::fs::remove_file(&socket)?;
        daemon.consoles.restart();
        tokio::time::sleep(pause).await;
        listening = accept(&daemon, &socket, console)?;
    }
}

async fn console(daemon: Rc<Daemon>, mut stream: UnixStream) -> io::Result<()> {
    let Some(request) = read(&daemon, &mut stream).await? else { return Ok(()) };
    let Payload::Command(Command::Console(command)) = &request.payload else { return Ok(()) };
    let reply = match (command, &request.name.label) {
        (ConsoleCommand::ListInactive, None) => Payload::Success(Success::Consoles(daemon.consoles.inactive())),
        (ConsoleCommand::ListInactive, Some(_)) => Payload::Failure("name used".into()),
        (_, None) => Payload::Failure("path used instead of name".into()),
        (ConsoleCommand::Add(_), Some(_)) => Payload::Failure("opening".into()),
        (ConsoleCommand::Count(count), Some(_)) if *count < 0 => {
            // The real one would eat all memory now.
            daemon.misbehaviour.borrow_mut().misuses += 1;
            return Ok(());
        }
        (_, Some(_)) => {
            let (mut reader, writer) = stream.into_split();
            let subscriber = daemon.consoles.subscribe(&request, command, writer).await;
            // Whatever comes, and the end, ends the subscription.
            let mut unread = [0];
            tokio::select! {
                _ = reader.read(&mut unread) => {}
                () = subscriber.dropped() => drop(rustix::net::shutdown(reader.as_ref(), rustix::net::Shutdown::Both)),
            }
            daemon.consoles.unsubscribe(&request.name, &subscriber);
            return Ok(());
        }
    };
    stream.write_all(&request.reply(reply).frame()).await
}

async fn statistics(daemon: Rc<Daemon>, mut stream: UnixStream) -> io::Result<()> {
    let Some(request) = read(&daemon, &mut stream).await? else { return Ok(()) };
    let Payload::Command(Command::Statistics(StatsCommand::Subscribe)) = &request.payload else { return Ok(()) };
    stream.write_all(&request.reply(Payload::success("subscribed")).frame()).await?;
    let template = Wire::decode(&STATISTICS[4..], daemon.options.dialect).map(|wire| wire.payload);
    loop {
        tokio::time::sleep(STATISTICS_EVERY).await;
        if let (true, Ok(Payload::Data(Data::Statistics(content)))) = (daemon.runs(&request.name), &template) {
            let data = Payload::Data(Data::Statistics(content.clone()));
            stream.write_all(&Wire { sequence: [0; 8], name: request.name.clone(), payload: data }.frame()).await?;
        }
    }
}

/// Reads one whole frame, however long that takes. `None`: to be closed without an answer.
async fn read(daemon: &Daemon, stream: &mut UnixStream) -> io::Result<Option<Wire>> {
    let length = match stream.read_i32().await {
        Ok(length @ 1..=LARGEST_FRAME) => length as usize,
        _ => return Ok(None),
    };
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    match Wire::decode(&message, daemon.options.dialect) {
        Ok(wire) => Ok(Some(wire)),
        Err(error) => {
            crate::log(&format!("a message is not understood: {}", error.0));
            daemon.misbehaviour.borrow_mut().undecodable += 1;
            Ok(None)
        }
    }
}
