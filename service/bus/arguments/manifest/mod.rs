//! The manifest of a stack: TOML, in which every option means what it means in a call.
//!
//! A refusal says where in the text, and never repeats a value of `args`, as they can hold secrets.

mod place;
mod table;
#[cfg(test)]
mod tests;
mod written;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::configuration::{DeployOptions, KNOWN};
use super::deploy::image_reference;
use super::image_options::{IMAGE, Written, goes_with, takes};
use super::options::Known;
use super::publication::{PublishOptions, Terms, mappings};
use super::refusal::{Refusal, about, each};
use super::{InvalidArgument, at_most, service, stack};
use crate::domain::{ImageReference, Manifest, MemberPlan, PortMapping, ServiceName, StackName};
use place::Fault;
use table::{Table, fits};

/// Bytes. A larger one is a mistake: all arguments of all members would be.
const MAX_TEXT: usize = 1 << 20;
const MAX_MEMBERS: usize = 256;

/// Keys of a member besides the options of Deploy.
const MEMBER: &[Known] = &[
    ("image", "s"),
    ("ports", "as"),
    ("staged", "as"),
    ("addresses", "as"),
    ("sources", "as"),
    ("drain", "t"),
    ("watch", "s"),
];

/// What of Deploy cannot be said for all members at once: an address is one's.
const OF_ONE: &str = "address";

/// The keys of [`MEMBER`] as they are written, where serde reads a table with those of Deploy in it as well.
#[derive(Default, Deserialize)]
struct MemberOptions {
    image: Option<String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    staged: Vec<String>,
    watch: Option<String>,
}

/// A manifest. What its members' arguments say of other members is not looked at.
///
/// Hundreds of readiness rules with costly patterns take a second: not for a thread that others wait for.
///
/// # Errors
/// The first thing that is wrong, with its line and column.
pub fn manifest(text: &str) -> Result<Manifest, InvalidArgument> {
    if text.len() > MAX_TEXT {
        return Err(InvalidArgument(format!(
            "the manifest is {} bytes long: it can be at most {MAX_TEXT}",
            text.len()
        )));
    }
    let entries = DeTable::parse(text).map_err(|error| not_toml(text, &error))?;
    read(entries.into_inner()).map_err(|fault| fault.within(text))
}

fn not_toml(text: &str, error: &toml::de::Error) -> InvalidArgument {
    // Its message only: what it displays quotes the line.
    match error.span() {
        Some(span) => Fault::new(span.start, error.message()).within(text),
        None => InvalidArgument(format!("somewhere in the manifest: {}", error.message())),
    }
}

fn read(mut entries: DeTable<'_>) -> Result<Manifest, Fault> {
    let stack = stack_name(entries.remove("stack"))?;
    let services = entries.remove_entry("service");
    let defaults = Table { what: "a manifest", offset: 0, entries };
    check_defaults(&defaults)?;
    let mut members = members(&stack, services)?.into_iter().collect::<Vec<_>>();
    // As they are written, so that of several mistakes the first one is named.
    members.sort_by_key(|(key, _)| key.span().start);
    let members = members.into_iter().map(|(key, value)| member(&key, value, &defaults));
    let members = members.collect::<Result<BTreeMap<_, _>, _>>()?;
    check_use(&defaults, &members)?;
    let bytes = members.values().flat_map(|plan| &plan.configuration.arguments.0).map(String::len).sum::<usize>();
    if bytes > MAX_TEXT {
        // What stands once for all members is kept for each.
        return Err(Fault::new(
            0,
            format!("the args of all members are {bytes} bytes together: at most {MAX_TEXT} can be"),
        ));
    }
    Ok(Manifest { stack, members })
}

fn stack_name(value: Option<Spanned<DeValue<'_>>>) -> Result<StackName, Fault> {
    let Some(value) = value else { return Err(Fault::new(0, "stack is missing: give the stack a name")) };
    fits("stack", &value, "s", false)?;
    let name = value.get_ref().as_str().unwrap_or_default();
    stack(name).map_err(|reason| Fault { offset: value.span().start, reason })
}

/// They are right on their own: a mistake in one that every member overrides would be ignored in silence.
fn check_defaults(defaults: &Table<'_>) -> Result<(), Fault> {
    for key in defaults.entries.keys() {
        let name = key.get_ref().as_ref();
        if name == OF_ONE || MEMBER.iter().any(|(member, _)| *member == name) {
            let message = format!("{name} cannot be for all members: write it in the table of one, [service.NAME]");
            return Err(Fault::new(key.span().start, message));
        }
    }
    let all = KNOWN.iter().chain(IMAGE).filter(|(name, _)| *name != OF_ONE);
    // Those two are taken out before: they are here for the list of keys that there are.
    let known = [("stack", "s"), ("service", "")].iter().chain(all).copied().collect::<Vec<_>>();
    defaults.check(&known)?;
    defaults.read::<DeployOptions>()?.default_configuration().map_err(|refusal| defaults.fault(refusal))?;
    Ok(())
}

/// What is said of the images of all must be said of one at least.
fn check_use(defaults: &Table<'_>, members: &BTreeMap<ServiceName, MemberPlan>) -> Result<(), Fault> {
    let unused = |option: &str| !members.values().any(|plan| takes(&plan.image, option));
    for key in defaults.entries.keys() {
        let option = key.get_ref().as_ref();
        if unused(option) {
            return Err(Fault::new(key.span().start, format!("{}, and no member has one", goes_with(option))));
        }
    }
    Ok(())
}

type Entry<'a> = (Spanned<DeString<'a>>, Spanned<DeValue<'a>>);

/// The tables of the members, at least one.
fn members<'a>(stack: &StackName, services: Option<Entry<'a>>) -> Result<DeTable<'a>, Fault> {
    let none =
        |offset| Fault::new(offset, format!("stack {stack} has no member: write a table [service.NAME] for each"));
    let Some((key, value)) = services else { return Err(none(0)) };
    let offset = key.span().start;
    match value.into_inner() {
        DeValue::Table(members) if members.is_empty() => Err(none(offset)),
        DeValue::Table(members) => {
            at_most("service", members.len(), MAX_MEMBERS).map_err(|reason| Fault { offset, reason })?;
            Ok(members)
        }
        _ => Err(Fault::new(offset, "service is not a table: write one for each member, [service.NAME]")),
    }
}

fn member<'a>(
    key: &Spanned<DeString<'a>>,
    value: Spanned<DeValue<'a>>,
    defaults: &Table<'a>,
) -> Result<(ServiceName, MemberPlan), Fault> {
    let offset = key.span().start;
    let name = service(key.get_ref()).map_err(|reason| Fault { offset, reason })?;
    let DeValue::Table(entries) = value.into_inner() else {
        let message = format!("service.{name} is not a table: members are tables, [service.NAME]");
        return Err(Fault::new(offset, message));
    };
    let mut table = Table { what: "a member", offset, entries };
    table.check(&[MEMBER, KNOWN, IMAGE].concat())?;
    let Some(image) = table.read::<MemberOptions>()?.image else {
        return Err(Fault::new(offset, format!("member {name} has no image: write image = \"/path/of/the/image\"")));
    };
    let image = about("image", image_reference(&image)).map_err(|refusal| table.fault(refusal))?;
    inherit(&mut table, defaults, &image);
    let options: MemberOptions = table.read()?;
    Ok((name, plan(&table, options, image)?))
}

/// Gives a member what the head says for all, where it says nothing itself.
fn inherit<'a>(member: &mut Table<'a>, defaults: &Table<'a>, image: &ImageReference) {
    let mut defaults = defaults.entries.clone();
    // What is said of the images of all is said of those of which it can be.
    IMAGE.iter().filter(|(option, _)| !takes(image, option)).for_each(|(option, _)| {
        defaults.remove(*option);
    });
    if member.text("restart") == Some("never") {
        // They say when the others are restarted; a member could not say otherwise that it has none.
        defaults.remove("restart-exit-codes");
    }
    if member.number("check") == Some("0") {
        defaults.remove("check-failures");
    }
    member.fill_in(defaults);
}

fn plan(table: &Table<'_>, options: MemberOptions, image: ImageReference) -> Result<MemberPlan, Fault> {
    let fault = |refusal| table.fault(refusal);
    let terms: PublishOptions = table.read()?;
    if options.ports.is_empty() && options.staged.is_empty() {
        needs_ports(&terms).map_err(fault)?;
    }
    let Terms { addresses, sources, drain } = terms.terms().map_err(fault)?;
    Ok(MemberPlan {
        image_options: table.read::<Written>()?.options(&image).map_err(fault)?,
        configuration: table.read::<DeployOptions>()?.configuration().map_err(fault)?,
        ports: ports("ports", &options.ports).map_err(fault)?,
        staged: ports("staged", &options.staged).map_err(fault)?,
        addresses,
        sources,
        drain,
        watch: options.watch.map(|text| watch(&text, &image)).transpose().map_err(fault)?,
        image,
    })
}

/// Refuses what says how ports are published, of a member that has none.
fn needs_ports(terms: &PublishOptions) -> Result<(), Refusal> {
    let given = [
        ("addresses", terms.addresses.is_some()),
        ("sources", terms.sources.is_some()),
        ("drain", terms.drain.is_some()),
    ];
    given.into_iter().filter(|(_, given)| *given).try_for_each(|(option, _)| {
        about(option, Err(InvalidArgument(format!("{option} goes with ports or staged, and this member has neither"))))
    })
}

fn ports(option: &'static str, texts: &[String]) -> Result<Vec<PortMapping>, Refusal> {
    mappings(option, each(option, texts, |text| written::port(option, text))?)
}

fn watch(text: &str, image: &ImageReference) -> Result<Duration, Refusal> {
    let interval = if image.is_fixed() {
        Err(InvalidArgument::new(
            "watch goes with an image that can change: a digest or a commit is the same one for ever",
        ))
    } else {
        written::watch(text)
    };
    about("watch", interval)
}
