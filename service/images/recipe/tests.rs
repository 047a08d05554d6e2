use std::collections::BTreeSet;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::domain::BuildRequest;

fn bases() -> BaseImages {
    BaseImages {
        mirage_3: Some(BaseImages::DEFAULT_MIRAGE_3.parse().unwrap()),
        mirage_4: Some(BaseImages::DEFAULT_MIRAGE_4.parse().unwrap()),
    }
}

fn url() -> GitUrl {
    "https://github.com/mirage/mirage-www".parse().unwrap()
}

fn options(request: BuildRequest, image_path: &str) -> BuildOptions {
    let path = (!image_path.is_empty()).then(|| image_path.parse().unwrap());
    BuildOptions::new(request, path).unwrap()
}

fn text(options: &BuildOptions, caches_of: Option<&GitUrl>) -> String {
    text_with("secret", options, caches_of)
}

fn text_with(secret: &str, options: &BuildOptions, caches_of: Option<&GitUrl>) -> String {
    let Recipe::Mirage(recipe) = &options.recipe else { panic!("no recipe") };
    let caches = caches_of.map(|repository| Caches { repository, secret });
    dockerfile(recipe, &options.image_paths()[0], &bases(), caches)
}

/// All options of the contract.
fn full(mirage: &str) -> BuildRequest {
    BuildRequest {
        mirage: Some(mirage.into()),
        config_file: Some("src/config.ml".into()),
        mirage_args: Some(vec!["--kv_ro=crunch".into(), "--hello=it's a \"$name\"".into()]),
        extra_instructions: Some(vec!["COPY --chown=1000:1000 web.opam ./".into(), "RUN opam pin add -n web .".into()]),
        opam_repository_commit: Some("4dd2620bcc821418bae53669a6c6163964c090a2".into()),
        dockerfile: None,
    }
}

fn arguments(arguments: &[&str]) -> BuildRequest {
    BuildRequest { mirage_args: Some(arguments.iter().map(|text| text.to_string()).collect()), ..Default::default() }
}

#[test]
fn recipes_are_as_they_were_read_and_approved() {
    let mirage_3 = BuildRequest { mirage: Some("3".into()), ..Default::default() };
    for (name, found) in [
        ("mirage-3", text(&options(mirage_3, ""), None)),
        ("mirage-3-full", text(&options(full("3"), "/out/web.spt"), Some(&url()))),
        ("mirage-4", text(&options(BuildRequest::default(), ""), None)),
        ("mirage-4-full", text(&options(full("4"), "/out/web.spt"), Some(&url()))),
    ] {
        let path = format!("{}/service/images/recipe/{name}.Dockerfile", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let approved = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            found, approved,
            "{name}: UPDATE_GOLDEN=1 writes the files anew, to be read before they are committed"
        );
    }
}

#[test]
fn caches_are_of_one_repository_and_change_nothing_else() {
    let options = options(full("4"), "");
    let with = text(&options, Some(&url()));
    let other = text(&options, Some(&"https://example.org/x".parse().unwrap()));
    let ids = |text: &str| {
        text.split([',', ' ']).filter(|word| word.starts_with("id=")).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let elsewhere = text_with("another", &options, Some(&url()));
    assert_eq!((ids(&with).len(), ids(&other).len(), ids(&elsewhere).len()), (2, 2, 2));
    assert!(ids(&with).is_disjoint(&ids(&other)) && ids(&with).is_disjoint(&ids(&elsewhere)));
    let bare: Vec<_> = with
        .lines()
        .map(|line| {
            let words = line.split(' ').filter(|word| !word.starts_with("--mount="));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(bare.join("\n") + "\n", text(&options, None));
}

/// The instructions as an engine splits them: a line that ends with a backslash goes on in the next one.
fn instructions(text: &str) -> Vec<String> {
    assert!(!text.lines().any(|line| line.trim_end().ends_with('\\')), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// What a real shell takes the words of the configure command for.
fn shell_words(text: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with("RUN opam exec -- mirage configure")).unwrap();
    let script = line.replacen("RUN opam", "printf '%s\\0'", 1);
    let output = Command::new("/bin/sh").arg("-c").arg(script).current_dir("/").env_clear().output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let words = String::from_utf8(output.stdout).unwrap();
    words.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

#[test]
fn hostile_arguments_stay_words() {
    let plain = instructions(&text(&options(arguments(&["x"]), ""), None));
    let hostile = [
        "'; touch /tmp/x; '",
        "$(touch x)",
        "`touch x`",
        "\\",
        "a\\",
        "'\\",
        "\"",
        "''",
        "<<EOF",
        "<<'EOF'",
        "0<<-EOF",
        "#",
        "*",
        "~",
        "&",
        "|",
        "${HOME}",
        "$HOME",
        "!!",
        "-",
        "--",
        "RUN x",
        "[\"x\"]",
        "ä ö",
        " ",
        "%s",
        "--mount=type=bind,source=/",
        "FROM x",
    ];
    for word in hostile {
        let text = text(&options(arguments(&[word, "next"]), ""), None);
        assert_eq!(instructions(&text), plain, "{word:?}");
        let words = shell_words(&text);
        assert_eq!(words, ["exec", "--", "mirage", "configure", "-f", "config.ml", "-t", "hvt", word, "next"]);
        // A here-document begins with a word of its own that is not quoted.
        assert!(!text.split(' ').any(|word| word.starts_with("<<")), "{text}");
    }
}

#[test]
fn extra_instructions_are_lines_of_the_first_stage() {
    let extra = BuildRequest { extra_instructions: Some(vec!["RUN a".into(), "ENV B=c".into()]), ..Default::default() };
    let text = text(&options(extra, ""), None);
    let kinds = instructions(&text);
    assert_eq!(kinds.iter().filter(|kind| *kind == "FROM").count(), 2);
    let lines: Vec<_> = text.lines().collect();
    let at = lines.iter().position(|line| *line == "RUN a").unwrap();
    assert_eq!(lines[at + 1], "ENV B=c");
    assert!(lines[at - 1].starts_with("COPY ") && lines[at + 2].contains("mirage configure"));
    assert_eq!(kinds[kinds.len() - 2..], ["FROM", "COPY"]);
}

fn repository() -> GitUrl {
    "https://example.org/website.git".parse().unwrap()
}

#[test]
fn the_key_is_of_what_is_done_and_nothing_else() {
    let commit: CommitId = "a".repeat(40).parse().unwrap();
    let of = |request: BuildRequest, path: &str| key(&repository(), &options(request, path), &commit, &bases());
    let dockerfile = |path: &str| BuildRequest { dockerfile: Some(path.into()), ..Default::default() };
    let plain = of(BuildRequest::default(), "");
    // Saying a default is saying nothing.
    assert_eq!(plain, of(BuildRequest { mirage: Some("4".into()), ..Default::default() }, "/unikernel.hvt"));
    let mut keys = BTreeSet::from([plain]);
    for other in [
        of(arguments(&["a", "b"]), ""),
        of(arguments(&["a b"]), ""),
        of(arguments(&["a"]), ""),
        of(full("3"), ""),
        of(full("4"), ""),
        of(BuildRequest::default(), "/x.hvt"),
        of(BuildRequest::default(), "/x.spt"),
        of(dockerfile("Dockerfile"), ""),
        of(dockerfile("Dockerfile"), "/unikernel.hvt"),
        of(dockerfile("other"), ""),
        key(&repository(), &options(BuildRequest::default(), ""), &"b".repeat(40).parse().unwrap(), &bases()),
        key(
            &"https://example.org/other.git".parse().unwrap(),
            &options(BuildRequest::default(), ""),
            &commit,
            &bases(),
        ),
        key(
            &repository(),
            &options(BuildRequest::default(), ""),
            &commit,
            &BaseImages { mirage_4: "x".parse().ok(), ..bases() },
        ),
    ] {
        assert!(keys.insert(other), "{other}");
    }
}

proptest! {
    #[test]
    fn no_option_adds_an_instruction(
        words in proptest::collection::vec("[\\PC]{1,30}", 0..4),
        folder in "([a-zA-Z0-9_.@+-]{1,8}/){0,2}",
        path in "/[\\PC]{1,20}",
    ) {
        let plain = text(&options(BuildRequest::default(), ""), None);
        let request = BuildRequest {
            config_file: Some(format!("{folder}config.ml")), mirage_args: Some(words), ..Default::default()
        };
        if let Ok(options) = BuildOptions::new(request, path.parse().ok()) {
            prop_assert_eq!(instructions(&text(&options, None)), instructions(&plain));
        }
    }
}
