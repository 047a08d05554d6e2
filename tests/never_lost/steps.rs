//! Every step of every workflow fails in turn, fails when it has done its work in turn, and is followed by SIGKILL in
//! turn, while a client outside asks what is published.

#[cfg(feature = "fault-injection")]
use crate::{
    account::Account,
    asking::Asking,
    netns::isolated,
    scene::{Deed, Known, Scene},
};
#[cfg(feature = "fault-injection")]
use std::time::{Duration, Instant};

/// Each deed is a test of its own, so that they run side by side.
macro_rules! every_step {
    ($($test:ident: $deed:ident $workflows:expr;)*) => {
        $(#[test]
        fn $test() {
            #[cfg(feature = "fault-injection")]
            isolated(concat!("steps::", stringify!($test)), |_| fail_every_step(Deed::$deed, &$workflows));
            #[cfg(not(feature = "fault-injection"))]
            println!("SKIPPED: {}: built without the feature fault-injection", stringify!($test));
        })*

        #[cfg(feature = "fault-injection")]
        fn covered() -> std::collections::BTreeSet<&'static str> {
            [$(&$workflows[..]),*].concat().into_iter().collect()
        }
    };
}

every_step! {
    deploy: Deploy ["deploy", "owner"];
    publish: Publish ["switch", "owner"];
    rollback: Rollback ["switch", "owner"];
    rollback_to_what_has_ended: RollbackToGone ["deploy", "switch", "owner"];
    unpublish: Unpublish ["switch", "owner"];
    destroy: Destroy ["remove", "owner"];
    destroy_of_what_is_live: DestroyLive ["remove", "owner"];
    restart: Restart ["restart", "owner"];
    restart_of_what_has_ended: Revive ["deploy", "owner"];
    collect: Collect ["remove", "collect", "owner"];
}

#[cfg(feature = "fault-injection")]
#[test]
fn no_workflow_is_forgotten() {
    use albatross_deployer::orchestrator::fault_points;
    // tests/stacks/steps.rs has those of stacks.
    let stacks = ["apply", "move", "remove-stack"];
    assert_eq!(covered(), fault_points().into_keys().filter(|workflow| !stacks.contains(workflow)).collect());
}

/// How often a point is reached at most in one deed: the owner writes more than once.
#[cfg(feature = "fault-injection")]
const MOST_WRITES: u32 = 12;

/// How often a fault is set that must be met.
#[cfg(feature = "fault-injection")]
const TRIES: u32 = 4;

#[cfg(feature = "fault-injection")]
async fn fail_every_step(deed: Deed, workflows: &[&str]) {
    let Some(mut scene) = Scene::new().await else { return };
    let started = Instant::now();
    scene.prepare(deed).await;
    let before = scene.settled().await;
    let known = scene.known(deed).await;
    scene.perform(deed, &known).await.unwrap();
    let done = scene.settled().await;
    let asking = Asking::start(&scene.host, 8080);
    let points = albatross_deployer::orchestrator::fault_points();
    let mut faults = 0;
    for (workflow, point) in workflows.iter().flat_map(|workflow| points[workflow].iter().map(move |p| (*workflow, *p)))
    {
        let repeated = workflow == "owner";
        // At the owner's points there is nothing between `fail-after` of one and `fail` of the next.
        let kinds = if repeated { &["fail", "kill"][..] } else { &["fail", "fail-after", "kill"] };
        for kind in kinds {
            for time in 1..=MOST_WRITES {
                let fault = format!("{point}={kind}@{time}");
                asking.during(&fault);
                let expected = Expected { before: &before, done: &done };
                let mut hit = false;
                // On a busy machine the owner may write late what the preparation left to do, and meet the fault before the
                // deed can: it gets more and more time for that before the fault is set.
                for attempt in 0..if time == 1 { TRIES } else { 1 } {
                    let rest = Duration::from_secs(attempt.into());
                    hit = hit || one_fault(&mut scene, deed, &known, (&fault, rest), &expected).await;
                }
                faults += usize::from(hit);
                assert!(hit || time > 1, "{deed:?}: {fault} is never reached");
                assert!(time < MOST_WRITES, "{deed:?} reaches {point} again and again");
                if !hit || !repeated {
                    break;
                }
            }
        }
    }
    let asked = asking.nothing_lost();
    println!("{deed:?}: {faults} faults in {:?}, and none of {asked} requests was lost", started.elapsed());
}

#[cfg(feature = "fault-injection")]
struct Expected<'a> {
    before: &'a Account,
    done: &'a Account,
}

/// Whether the fault was met.
#[cfg(feature = "fault-injection")]
async fn one_fault(
    scene: &mut Scene,
    deed: Deed,
    known: &Known,
    (fault, rest): (&str, Duration),
    expected: &Expected<'_>,
) -> bool {
    let Expected { before, done } = expected;
    // Prepared without the fault, and at rest before it can be met.
    scene.restart_service(None).await;
    scene.prepare(deed).await;
    scene.until(&format!("{deed:?}, prepared for {fault}: {before:#?}"), |account| account == *before).await;
    tokio::time::sleep(rest).await;
    scene.restart_service(Some(fault.to_owned())).await;
    scene.until("as before, after a restart", |account| account == *before).await;
    let outcome = scene.perform(deed, known).await;
    let kills = fault.contains("=kill");
    if !kills {
        assert!(scene.host.is_running(), "{deed:?}, {fault}: the service has ended");
        if outcome.is_ok() {
            scene.until("done", |account| account == *done).await;
            return false;
        }
    } else if outcome.is_ok() && scene.host.is_running() {
        return false;
    } else {
        assert!(!scene.host.wait_for_end().success());
        scene.restart_service(None).await;
    }
    // A Collect removes one thing after the other; each is removed or not.
    let partly = deed == Deed::Collect;
    let what = format!("{deed:?} after {fault}: {before:#?}\nor {done:#?}");
    let known_way =
        |account: &Account| account == *before || account == *done || kills && is_half_way(deed, before, account);
    let now = scene.until(&what, |account| partly || known_way(account)).await;
    if !kills && !partly && !may_be_done(deed, fault) {
        assert_eq!(now, **before, "{deed:?}, {fault}: a call that failed has changed something");
    }
    if now != **done || deed == Deed::Restart {
        let again = scene.perform(deed, known).await;
        // What a removal left half-done is finished by the service itself, and may be at this moment.
        let finished = matches!(deed, Deed::Destroy | Deed::DestroyLive)
            && again.as_ref().is_err_and(|error| error.to_string().contains("NoSuchUnikernel"));
        assert!(again.is_ok() || finished, "{deed:?} again after {fault}: {again:?}\n{}", scene.host.log());
    }
    scene.until(&format!("{deed:?}, again after {fault}: {done:#?}"), |account| account == *done).await;
    true
}

/// A rollback that was killed can have brought back what it was to go to, which then runs and waits.
#[cfg(feature = "fault-injection")]
fn is_half_way(deed: Deed, before: &Account, now: &Account) -> bool {
    let revived = |(id, state): (&String, &String)| {
        let state = if state == "exited" { now.unikernels.get(id).filter(|now| *now == "retired") } else { None }
            .unwrap_or(state);
        (id.clone(), state.clone())
    };
    let unikernels = before.unikernels.iter().map(revived).collect();
    deed == Deed::RollbackToGone && *now == Account { unikernels, ..before.clone() }
}

/// Once Albatross has destroyed a unikernel there is no way back: the rest is finished.
#[cfg(feature = "fault-injection")]
fn may_be_done(deed: Deed, fault: &str) -> bool {
    let past = fault.starts_with("destroying=fail-after")
        || fault.starts_with("forgetting")
        || fault.contains("@")
            && (fault.starts_with("written") || fault.starts_with("in-kernel"))
            && !fault.ends_with("@1");
    matches!(deed, Deed::Destroy | Deed::DestroyLive) && past
}
