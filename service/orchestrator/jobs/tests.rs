use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn jobs() -> (Arc<Jobs>, mpsc::Receiver<Event>) {
    let (events, told) = mpsc::channel(1024);
    (Jobs::new(events, 4), told)
}

async fn deploy(jobs: &Arc<Jobs>) -> Job {
    jobs.begin(JobKind::Deploy, "website".into()).await
}

type Reader = BufReader<Receiver>;

fn open(jobs: &Jobs, job: &Job) -> Reader {
    BufReader::new(Receiver::from_owned_fd(jobs.open_log(job.number()).unwrap()).unwrap())
}

async fn line(reader: &mut Reader) -> String {
    let mut line = String::new();
    timeout(PATIENCE, reader.read_line(&mut line)).await.unwrap().unwrap();
    line
}

async fn rest(mut reader: Reader) -> String {
    let mut text = String::new();
    timeout(PATIENCE, reader.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn a_log_has_what_was_said_and_what_is_said() {
    let (jobs, _told) = jobs();
    let job = deploy(&jobs).await;
    job.step("importing").await;
    job.log("Step 1/2 : FROM ocaml/opam");
    let mut early = open(&jobs, &job);
    assert_eq!(line(&mut early).await, "== importing\n");
    assert_eq!(line(&mut early).await, "Step 1/2 : FROM ocaml/opam\n");
    job.detail("building").await;
    job.detail("building").await;
    job.log("esc\u{1b}[31m, \0 and \t");
    assert_eq!(line(&mut early).await, "== importing: building\n");
    assert_eq!(line(&mut early).await, "esc [31m,   and  \n");
    let late = open(&jobs, &job);
    job.end(None).await;
    drop(job);
    assert_eq!(rest(early).await, "== done\n");
    let whole = rest(late).await;
    assert_eq!(whole.lines().count(), 5, "{whole}");
    assert!(whole.starts_with("== importing\nStep 1/2") && whole.ends_with("== done\n"), "{whole}");
}

#[tokio::test]
async fn what_a_job_ends_with_is_its_last_line() {
    for (error, last) in [
        (Error::Cancelled, "== cancelled\n"),
        (
            crate::images::Error::Build("the build failed:\nno such\npackage".into()).into(),
            "== failed: the build failed: no such package\n",
        ),
    ] {
        let (jobs, _told) = jobs();
        let job = deploy(&jobs).await;
        let reader = open(&jobs, &job);
        job.end(Some(&error)).await;
        assert_eq!(rest(reader).await, format!("== waiting\n{last}"));
        assert!(matches!(jobs.open_log(job.number()), Err(Error::NoSuchJob(_))));
    }
    let (jobs, _told) = jobs();
    let job = deploy(&jobs).await;
    let reader = open(&jobs, &job);
    drop(job);
    assert_eq!(rest(reader).await, "== waiting\n== failed\n", "its task was lost");
}

#[tokio::test]
async fn who_never_logs_keeps_nothing() {
    let (jobs, _told) = jobs();
    let job = deploy(&jobs).await;
    job.step("importing").await;
    job.detail("extracting").await;
    job.bytes(1, Some(2));
    assert!(jobs.lock().running[&job.number()].log.is_none());
    job.log("one");
    assert!(jobs.lock().running[&job.number()].log.is_some());
}

#[tokio::test]
async fn parts_log_with_their_names_in_front() {
    let (jobs, _told) = jobs();
    let job = deploy(&jobs).await;
    let reader = open(&jobs, &job);
    let (_stop, stopped) = watch::channel(false);
    let (one, two) = (job.part(&"one", stopped.clone()), job.part(&"two", stopped));
    one.log("hello");
    two.step("creating").await;
    two.log("hello");
    drop((one, two));
    job.end(None).await;
    assert_eq!(rest(reader).await, "== waiting\none: hello\n== two: creating\ntwo: hello\n== done\n");
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_not_waited_for() {
    let (jobs, _told) = jobs();
    let job = deploy(&jobs).await;
    let reader = open(&jobs, &job);
    for round in 0..100 {
        (0..300).for_each(|number| job.log(&format!("{} {}", round * 300 + number, "x".repeat(200))));
        tokio::task::yield_now().await;
    }
    job.end(None).await;
    let text = rest(reader).await;
    let lost = text
        .lines()
        .filter_map(|line| line.strip_prefix("[albatross-deployer: ")?.split(' ').next()?.parse::<usize>().ok());
    let lost = lost.sum::<usize>();
    let there = text.lines().filter(|line| line.ends_with('x')).count();
    assert!(lost > 20_000 && there + lost + 1 == 30_001 + usize::from(!text.starts_with("== ")), "{there}, {lost}");
    assert!(text.ends_with("x\n== done\n") && text.len() < 1_300_000, "{}", text.len());
}

#[tokio::test]
async fn readers_are_counted() {
    let (jobs, _told) = jobs();
    let job = deploy(&jobs).await;
    let mut readers = (0..READERS).map(|_| open(&jobs, &job)).collect::<Vec<_>>();
    let refused = jobs.open_log(job.number()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse);
    readers.pop();
    let freed = async {
        while jobs.open_log(job.number()).is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed).await.unwrap();
}

/// The bytes and the progress of every event of a job.
fn counted(told: &mut mpsc::Receiver<Event>) -> Vec<(u64, Option<f64>)> {
    std::iter::from_fn(|| told.try_recv().ok())
        .filter_map(|event| if let Event::Job(view) = event { Some((view.bytes, view.progress)) } else { None })
        .collect()
}

#[tokio::test]
async fn bytes_are_told_as_often_as_one_can_look() {
    let (jobs, mut told) = jobs();
    let job = deploy(&jobs).await;
    assert_eq!(counted(&mut told), [(0, None)]);
    let begin = Instant::now();
    let at = |done: u64, total: Option<u64>, milliseconds: u64| {
        let now = begin + Duration::from_millis(milliseconds);
        jobs.lock().running.get_mut(&job.number()).unwrap().count(done, total, now)
    };
    let told_at = (0..500).filter(|&number| at(number, None, number)).collect::<Vec<_>>();
    assert_eq!(told_at, [0, 50, 100, 150, 200, 250, 300, 350, 400, 450]);
    assert!(!at(5, Some(10), 499));
    assert_eq!(jobs.list()[0].0.progress, Some(0.5), "known also where it is not told yet");
    // That all is there is told at once, and once.
    assert!(at(10, Some(10), 499) && !at(10, Some(10), 499));
    let other = deploy(&jobs).await;
    counted(&mut told);
    other.bytes(10, Some(10));
    assert_eq!(counted(&mut told), [(10, Some(1.0))]);
    drop(other);
    job.bytes(10, Some(0));
    counted(&mut told);
    job.step("claiming").await;
    assert_eq!(counted(&mut told), [(0, None)]);
    let (_stop, stopped) = watch::channel(false);
    job.part(&"one", stopped).bytes(7, Some(8));
    assert_eq!((counted(&mut told), jobs.list()[0].0.bytes), (vec![], 0), "not a part's to say");
}

#[test]
fn a_detail_is_a_workers_word() {
    assert_eq!(detailed("importing: x: y", None, "down\0load\u{1b}ing"), "importing: downloading");
    assert_eq!(detailed("one: importing: x", Some("one"), "y"), "one: importing: y");
    assert_eq!(detailed("importing", None, &"x".repeat(1000)).len(), "importing: ".len() + DETAIL);
}
