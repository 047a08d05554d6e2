use super::*;

fn request() -> BuildRequest {
    BuildRequest::default()
}

fn refused(request: BuildRequest) -> String {
    let error = BuildOptions::new(request, None).unwrap_err();
    assert!(error.to_string().starts_with(error.option()), "{error}");
    error.to_string()
}

fn arguments(argument: &str) -> BuildRequest {
    BuildRequest { mirage_args: Some(vec!["--fine".into(), argument.into()]), ..request() }
}

fn instructions(instruction: &str) -> BuildRequest {
    BuildRequest { extra_instructions: Some(vec![instruction.into()]), ..request() }
}

#[test]
fn defaults_are_the_contracts() {
    let options = BuildOptions::new(request(), None).unwrap();
    assert_eq!(options.image_paths(), ["/unikernel.hvt".parse().unwrap()]);
    let Recipe::Mirage(recipe) = options.recipe else { panic!() };
    assert_eq!(
        (recipe.version, recipe.target, recipe.config_file.as_str()),
        (MirageVersion::Four, Target::Hvt, "config.ml")
    );
    assert_eq!((recipe.arguments, recipe.extra_instructions, recipe.opam_repository), (vec![], vec![], None));
}

#[test]
fn every_option_arrives_and_comes_back_from_the_ledger() {
    let asked = BuildRequest {
        mirage: Some("3".into()),
        config_file: Some("src/config.ml".into()),
        mirage_args: Some(vec!["--kv_ro=crunch".into(), "--port".into(), "8 0".into()]),
        extra_instructions: Some(vec!["RUN opam pin add x .".into(), "env A=b".into()]),
        opam_repository_commit: Some("4d".repeat(20)),
        dockerfile: None,
    };
    let path: ImagePath = "/out/web.spt".parse().unwrap();
    let options = BuildOptions::new(asked, Some(path.clone())).unwrap();
    assert_eq!(options.image_paths(), [path]);
    let Recipe::Mirage(recipe) = &options.recipe else { panic!() };
    assert_eq!((recipe.version, recipe.target), (MirageVersion::Three, Target::Spt));
    assert_eq!(
        recipe.arguments.iter().map(MirageArgument::as_str).collect::<Vec<_>>(),
        ["--kv_ro=crunch", "--port", "8 0"]
    );
    assert_eq!(recipe.extra_instructions[1].as_str(), "env A=b");
    assert_eq!(recipe.opam_repository.as_ref().unwrap().as_str(), "4d".repeat(20));
    let json = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<BuildOptions>(&json).unwrap(), options);
    assert!(serde_json::from_str::<BuildOptions>(&json.replace("env A=b", "FROM x")).is_err());
}

#[test]
fn a_dockerfile_goes_with_nothing_of_a_recipe() {
    let dockerfile = || BuildRequest { dockerfile: Some("build/Dockerfile".into()), ..request() };
    let options = BuildOptions::new(dockerfile(), None).unwrap();
    assert_eq!(options.recipe, Recipe::Dockerfile("build/Dockerfile".parse().unwrap()));
    assert_eq!(options.image_paths(), ImagePath::defaults());
    let word = || Some("4".to_owned());
    for (option, asked) in [
        ("mirage", BuildRequest { mirage: word(), ..dockerfile() }),
        ("config-file", BuildRequest { config_file: word(), ..dockerfile() }),
        ("mirage-args", BuildRequest { mirage_args: Some(vec![]), ..dockerfile() }),
        ("extra-instructions", BuildRequest { extra_instructions: Some(vec![]), ..dockerfile() }),
        ("opam-repository-commit", BuildRequest { opam_repository_commit: word(), ..dockerfile() }),
    ] {
        let message = refused(asked);
        assert!(message.starts_with(option) && message.contains("dockerfile"), "{message}");
    }
}

#[test]
fn what_is_not_valid_is_refused_by_name() {
    for version in ["", "5", "04", "4.0"] {
        assert!(refused(BuildRequest { mirage: Some(version.into()), ..request() }).contains("3 or 4"));
    }
    for path in ["/src/config.ml", "../config.ml", "", "a\nRUN x", "$(x)"] {
        assert!(refused(BuildRequest { config_file: Some(path.into()), ..request() }).contains("relative"));
        assert!(refused(BuildRequest { dockerfile: Some(path.into()), ..request() }).contains("relative"));
    }
    for commit in ["", "main", "4d4d", &"4D".repeat(20), &"4d".repeat(32)] {
        assert!(refused(BuildRequest { opam_repository_commit: Some(commit.into()), ..request() }).contains("40 hex"));
    }
    let many = Some(vec!["RUN x".to_owned(); MAX_TEXTS + 1]);
    assert!(refused(BuildRequest { mirage_args: many.clone(), ..request() }).contains("more than 128"));
    assert!(refused(BuildRequest { extra_instructions: many, ..request() }).contains("more than 128"));
}

#[test]
fn what_is_said_of_a_build_is_bounded_as_a_whole() {
    let of = |arguments: usize, instructions: usize| BuildRequest {
        mirage_args: Some(vec!["x".repeat(MAX_TEXT); arguments]),
        extra_instructions: Some(vec![format!("RUN {}", "x".repeat(MAX_TEXT - 4)); instructions]),
        ..request()
    };
    for (arguments, instructions) in [(32, 0), (0, 32), (16, 16)] {
        assert!(BuildOptions::new(of(arguments, instructions), None).is_ok());
    }
    for (arguments, instructions) in [(33, 0), (0, 33), (17, 16), (128, 128)] {
        let message = refused(of(arguments, instructions));
        assert!(message.contains("at most 131072") && !message.contains("xx"), "{message}");
    }
}

#[test]
fn arguments_leave_target_and_file_alone() {
    for bad in ["-t", "-tspt", "--target", "--target=spt", "--tar", "--t=hvt"] {
        assert!(refused(arguments(bad)).contains("number 2 sets the target"), "{bad}");
    }
    for bad in ["-f", "-fx.ml", "--file=x.ml", "--fi"] {
        assert!(refused(arguments(bad)).contains("config-file"), "{bad}");
    }
    let long = "secret".repeat(1000);
    for bad in ["", "secret\n", "secret\0", "\u{1b}secret", &long] {
        let message = refused(arguments(bad));
        assert!(message.contains("number 2") && !message.contains("secret"), "{message}");
    }
    for good in
        ["-", "--", "--target_debug", "--tls=x", "--filter", "'; rm -rf /; '", "$(x)", "a\\", "<<EOF", "-o", "ä"]
    {
        assert!(BuildOptions::new(arguments(good), None).is_ok(), "{good}");
    }
}

#[test]
fn instructions_stay_in_their_stage_and_line() {
    for good in [
        "RUN opam pin add web . && true",
        "run x",
        "ENV A=\"b c\"",
        "ARG A",
        "COPY --chown=opam a b",
        "ADD a b",
        "RUN a\\b",
    ] {
        assert!(BuildOptions::new(instructions(good), None).is_ok(), "{good}");
    }
    for bad in [
        "",
        "RUN",
        "RUN ",
        "FROM scratch",
        "from x",
        "ONBUILD RUN x",
        "USER root",
        "WORKDIR /",
        "SHELL [\"x\"]",
        "CMD x",
        "ENTRYPOINT x",
        "VOLUME /x",
        "# syntax=x",
        " RUN x",
        "RUN\tx",
        "RUN x\nFROM y",
        "RUN x\rFROM y",
        "RUN x \\",
        "RUN x\\  ",
        "RUN <<EOF",
        "COPY <<EOF /x",
        "RUN cat <<-'EOF'",
        "RUN\u{a0}x",
    ] {
        assert!(refused(instructions(bad)).contains("number 1"), "{bad}");
    }
    assert!(refused(instructions(&format!("RUN {}", "x".repeat(MAX_TEXT)))).contains("4096"));
}
