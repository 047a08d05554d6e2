//! Every step of what is done with a stack fails in turn, fails when it has done its work in turn, and is followed by
//! SIGKILL in turn, while a client outside asks what is live.

#[cfg(feature = "fault-injection")]
use crate::{
    account::Account,
    asking::Asking,
    host::{Options, PATIENCE, eventually},
    manifest::{FIRST, LIVE, SECOND, STAGED, Versions, mail},
    netns::isolated,
    scene::{Scene, Seen},
};
#[cfg(feature = "fault-injection")]
use std::time::{Duration, Instant};

/// What is done while something fails. Each begins at FIRST live, with nothing else there but what it names.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    /// Of SECOND.
    Apply,
    /// With `activate`.
    ApplyLive,
    /// SECOND is staged.
    Activate,
    /// SECOND was live before.
    Rollback,
    /// SECOND was live before, and its forward is gone.
    RollbackToGone,
    /// FIRST live, SECOND staged.
    Remove,
}

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
    };
}

every_step! {
    apply: Apply ["apply", "deploy", "owner"];
    apply_and_activate: ApplyLive ["apply", "owner"];
    activate: Activate ["move", "owner"];
    rollback_stack: Rollback ["move", "owner"];
    rollback_stack_to_what_is_gone: RollbackToGone ["apply", "owner"];
    remove_stack: Remove ["remove-stack", "owner"];
}

/// How often a point is reached at most in one deed.
#[cfg(feature = "fault-injection")]
const MOST_TIMES: u32 = 80;

/// How often a fault of the owner is set that must be met: see `tests/never_lost/steps.rs`.
#[cfg(feature = "fault-injection")]
const TRIES: u32 = 4;

/// What there is, by the bus and by everybody else. Unikernels go by their images: their addresses, and with these their
/// ids, are others each time.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scenery {
    account: Account,
    stack: Option<Seen>,
}

#[cfg(feature = "fault-injection")]
async fn scenery(scene: &Scene) -> Scenery {
    let end = Instant::now() + PATIENCE;
    loop {
        let account = scene.settled().await;
        let stack = scene.mail().await.map(|seen| Seen { last_check: 0, ..seen });
        let names = names(scene, &account, stack.as_ref()).await;
        let at_rest = stack.as_ref().is_none_or(|stack| stack.state != "staging");
        // Nothing has changed while it was looked at.
        if at_rest && names.len() == account.unikernels.len() && scene.settled().await == account {
            return Scenery {
                account: renamed(account, &names),
                stack: stack.map(|stack| renamed_chains(stack, &names)),
            };
        }
        assert!(Instant::now() < end, "it does not come to rest: {stack:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Of each id: its chain, state, service and image, and a number where there are several.
#[cfg(feature = "fault-injection")]
type Names = std::collections::BTreeMap<String, String>;

#[cfg(feature = "fault-injection")]
async fn names(scene: &Scene, account: &Account, stack: Option<&Seen>) -> Names {
    let mut names = Names::new();
    for (id, state) in &account.unikernels {
        let path = format!("{}/unikernel/{}", crate::host::ROOT, id.replace('.', "_2e"));
        let interface = "org.albatross.Deployer1.Unikernel";
        let Some(digest) = scene.manager.property::<String>(&path, interface, "ImageDigest").await else { continue };
        let chains =
            stack.map(|stack| [("live", &stack.live), ("staged", &stack.staged), ("previous", &stack.previous)]);
        let of = chains.into_iter().flatten().filter(|(_, chain)| chain.values().any(|member| member == id));
        let of = of.map(|(chain, _)| chain).collect::<Vec<_>>().join(" and ");
        let name = format!("{of} {state} {} of {}", id.split('.').next().unwrap(), &digest[..15]);
        let others = names.values().filter(|other| other.starts_with(&name)).count();
        names.insert(id.clone(), format!("{name} #{others}"));
    }
    names
}

#[cfg(feature = "fault-injection")]
fn renamed(account: Account, names: &Names) -> Account {
    let name = |id: &String| names.get(&id.replace("_2e", ".")).unwrap_or(id).clone();
    Account {
        unikernels: account.unikernels.iter().map(|(id, state)| (name(id), state.clone())).collect(),
        services: account.services.iter().map(|(of, (a, b))| (of.clone(), (name(a), name(b)))).collect(),
        published: account.published.into_iter().map(|(of, id, p, host, own)| (of, name(&id), p, host, own)).collect(),
        ..account
    }
}

#[cfg(feature = "fault-injection")]
fn renamed_chains(seen: Seen, names: &Names) -> Seen {
    let chain = |chain: &crate::scene::Chain| {
        let members = chain.iter().map(|(member, id)| (member.clone(), names.get(id).unwrap_or(id).clone()));
        members.collect()
    };
    Seen { live: chain(&seen.live), staged: chain(&seen.staged), previous: chain(&seen.previous), ..seen }
}

/// Chains and all that there is of them; not what the last Apply said.
#[cfg(feature = "fault-injection")]
fn same(one: &Scenery, other: &Scenery) -> bool {
    let chains = |scenery: &Scenery| {
        let stack = scenery.stack.clone();
        stack.map(|stack| (stack.live, stack.staged, stack.previous)).unwrap_or_default()
    };
    one.account == other.account && chains(one) == chains(other)
}

#[cfg(feature = "fault-injection")]
async fn prepare(scene: &Scene, deed: Deed) {
    let [first, second] = [FIRST, SECOND].map(|versions| mail(&scene.host, versions));
    match deed {
        Deed::Apply | Deed::ApplyLive | Deed::Remove | Deed::Activate => {
            scene.apply_and_activate(&first).await.unwrap();
            // What is previous would be in the way: the deed makes it anew.
            let previous = scene.seen().await.previous;
            if deed != Deed::Activate && deed != Deed::Remove {
                for id in previous.values().filter(|id| !id.is_empty()) {
                    scene.destroy(id, true).await.unwrap();
                }
            } else {
                scene.apply(&second).await.unwrap();
            }
        }
        Deed::Rollback | Deed::RollbackToGone => {
            scene.apply_and_activate(&second).await.unwrap();
            scene.apply_and_activate(&first).await.unwrap();
            if deed == Deed::RollbackToGone {
                let previous = scene.seen().await.previous;
                if !previous["forward"].is_empty() {
                    scene.destroy(&previous["forward"], false).await.unwrap();
                }
            }
        }
    }
}

#[cfg(feature = "fault-injection")]
async fn perform(scene: &Scene, deed: Deed) -> zbus::Result<()> {
    let second = mail(&scene.host, SECOND);
    match deed {
        Deed::Apply => scene.apply(&second).await.map(drop),
        Deed::ApplyLive => scene.apply_and_activate(&second).await.map(drop),
        Deed::Activate => scene.activate().await,
        Deed::Rollback | Deed::RollbackToGone => scene.roll_back().await,
        Deed::Remove => scene.remove().await,
    }
}

#[cfg(feature = "fault-injection")]
async fn fresh(scene: &Scene) {
    if scene.mail().await.is_some() {
        scene.remove().await.unwrap();
    }
    scene.manager.collect(Options::from([("force", true.into())])).await.unwrap();
    scene.nothing_is_left().await;
}

/// Whether the stack answers all the while: not while it is removed.
#[cfg(feature = "fault-injection")]
fn answers_on(deed: Deed) -> bool {
    deed != Deed::Remove
}

#[cfg(feature = "fault-injection")]
async fn fail_every_step(deed: Deed, workflows: &[&str]) {
    let Some(mut scene) = Scene::new().await else { return };
    let started = Instant::now();
    prepare(&scene, deed).await;
    let before = scenery(&scene).await;
    perform(&scene, deed).await.unwrap();
    let done = scenery(&scene).await;
    let points = albatross_deployer::orchestrator::fault_points();
    let (mut faults, mut asked) = (0, 0);
    for workflow in workflows {
        let points = points.get(workflow).unwrap_or_else(|| panic!("there is no workflow {workflow}")).clone();
        for (index, point) in points.iter().enumerate() {
            // Each member is deployed by steps of its own.
            let repeated = ["owner", "deploy"].contains(workflow);
            let kinds = if *workflow == "owner" { &["fail", "kill"][..] } else { &["fail", "fail-after", "kill"] };
            for kind in kinds {
                let mut met = 0;
                for time in 1..=MOST_TIMES {
                    let fault = format!("{point}={kind}@{time}");
                    let mut hit = false;
                    for attempt in 0..if *workflow == "owner" && time == 1 { TRIES } else { 1 } {
                        if hit {
                            break;
                        }
                        let rest = Duration::from_secs(attempt.into());
                        let (met, requests) = one_fault(&mut scene, deed, (&fault, rest), &before, &done).await;
                        (hit, asked) = (met, asked + requests);
                    }
                    met += u32::from(hit);
                    assert!(time < MOST_TIMES, "{deed:?} reaches {point} again and again");
                    if !hit || !repeated {
                        break;
                    }
                }
                // What is deployed is not always deployed by every step.
                assert!(met > 0 || *workflow == "deploy", "{deed:?}: {point}={kind} ({index}) is never reached");
                faults += met;
            }
        }
    }
    println!("{deed:?}: {faults} faults in {:?}, and none of {asked} requests was lost", started.elapsed());
}

/// Whether the fault was met, and how many requests were answered meanwhile.
#[cfg(feature = "fault-injection")]
async fn one_fault(
    scene: &mut Scene,
    deed: Deed,
    (fault, rest): (&str, Duration),
    before: &Scenery,
    done: &Scenery,
) -> (bool, usize) {
    scene.restart_service(None).await;
    fresh(scene).await;
    prepare(scene, deed).await;
    let prepared = scenery(scene).await;
    assert!(same(&prepared, before), "prepared for {fault}: {prepared:#?}\nin place of {before:#?}");
    tokio::time::sleep(rest).await;
    let asking = answers_on(deed).then(|| Asking::start(&scene.host, LIVE));
    if let Some(asking) = &asking {
        asking.during(fault);
    }
    scene.restart_service(Some(fault)).await;
    let outcome = perform(scene, deed).await;
    let kills = fault.contains("=kill");
    let hit = if kills {
        if outcome.is_ok() && deed == Deed::Remove {
            let removed = async || !scene.host.is_running() || scene.mail().await.is_none();
            eventually("the removal is over, which goes on behind its answer", removed).await;
        }
        let killed = outcome.is_err() || !scene.host.is_running();
        if killed {
            assert!(!scene.host.wait_for_end().success());
        }
        // It was answered first: it would be killed at its next write, or is now.
        scene.restart_service(None).await;
        killed
    } else {
        assert!(scene.host.is_running(), "{deed:?}, {fault}: the service has ended");
        outcome.is_err()
    };
    let now = scenery(scene).await;
    let what = format!("{deed:?} after {fault}, {outcome:?}: {now:#?}\nis neither {before:#?}\nnor {done:#?}");
    if !hit {
        assert!(same(&now, done), "{what}");
    } else {
        assert!(same(&now, before) || same(&now, done) || half_way(deed, before, &now), "{what}");
        answered(scene).await;
        again(scene, deed, fault, &now, done).await;
    }
    (hit, asking.map_or(0, Asking::nothing_lost))
}

/// Each chain answers under its ports, and by its own members.
#[cfg(feature = "fault-injection")]
async fn answered(scene: &Scene) {
    let Some(stack) = &scene.mail().await else { return };
    for (port, chain) in [(LIVE, &stack.live), (STAGED, &stack.staged)] {
        if chain.is_empty() {
            scene.nobody_at(port);
        } else {
            let versions: Versions = if scene.ask(port).unwrap()[0].0 == FIRST[0] { FIRST } else { SECOND };
            scene.is_answered_by(port, chain, versions).await;
        }
    }
}

/// What did not come about does when it is asked for again.
#[cfg(feature = "fault-injection")]
async fn again(scene: &Scene, deed: Deed, fault: &str, now: &Scenery, done: &Scenery) {
    if same(now, done) {
        return;
    }
    let outcome = match (deed, &now.stack) {
        (Deed::Remove, None) => Ok(()),
        // It was staged, and the service was killed before it was live.
        _ => perform(scene, deed).await,
    };
    assert!(outcome.is_ok(), "{deed:?} again after {fault}: {outcome:?}\n{}", scene.host.log());
    let finished = scenery(scene).await;
    assert!(same(&finished, done), "{deed:?} again after {fault}: {finished:#?}\nin place of {done:#?}");
}

/// An Apply that is to go live is two things, and between them the chain is staged. A rollback can have brought back what
/// it was to go to.
#[cfg(feature = "fault-injection")]
fn half_way(deed: Deed, before: &Scenery, now: &Scenery) -> bool {
    let (Some(was), Some(is)) = (&before.stack, &now.stack) else { return false };
    match deed {
        Deed::ApplyLive => was.live == is.live && is.state == "staged" && is.staged.len() == 3,
        Deed::RollbackToGone => was.live == is.live && was.staged == is.staged && is.previous.len() == 3,
        // A removal that has begun is finished, or not begun.
        _ => false,
    }
}
