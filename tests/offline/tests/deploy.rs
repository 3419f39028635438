//! What lies in deploy/, as far as it can be checked without the system that it is for.

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use offline::tree::root;
use serde_json::Value;

/// Exposure that `systemd-analyze security` may find, in tenths: from 0 (none) to 100.
const EXPOSURE: &str = "15";

/// Programs that are in the image.
const PROGRAMS: [&str; 3] = ["musterd", "muster", "muster-agent"];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Vec<Value> {
    let text = read(path);
    text.split("\n---\n").map(|part| serde_saphyr::from_str(part).expect("it is YAML")).collect()
}

fn program(name: &str) -> clap::Command {
    match name {
        "musterd" => server::command(),
        "muster-agent" => runtime::config::with_config_flag(agent::cli::Cli::command()),
        "muster" => cli::args::Cli::command(),
        _ => panic!("no program {name}"),
    }
}

/// A command line, which the program must take, and names of variables, which it must know.
fn check(words: &[&str], variables: &[&str]) {
    let name = words[0].trim_start_matches('/').rsplit('/').next().expect("a path has a last part");
    let mut command = program(name);
    if let Err(error) = command.clone().try_get_matches_from(words.iter().copied()) {
        panic!("{words:?}: {error}");
    }
    command.build();
    let mut known: Vec<String> = Vec::new();
    let mut folders = vec![&command];
    while let Some(folder) = folders.pop() {
        known.extend(
            folder.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())),
        );
        folders.extend(folder.get_subcommands());
    }
    for variable in variables {
        assert!(known.iter().any(|name| name == variable), "{words:?} knows no {variable}");
    }
}

#[test]
fn units_start_what_there_is_and_keep_it_in() {
    for (unit, binary) in [("musterd", "musterd"), ("muster-agent", "muster-agent")] {
        let path = format!("deploy/systemd/{unit}.service");
        let text = read(&path);
        let value = |key: &'static str| {
            text.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
        };
        let start: Vec<&str> = value("ExecStart").next().unwrap().split(' ').collect();
        let variables: Vec<&str> = value("Environment")
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.split('=').next())
            .collect();
        check(&start, &variables);
        assert!(start[0].ends_with(&format!("/{binary}")));
        if Command::new("systemd-analyze").arg("--version").output().is_err() {
            continue;
        }
        // The programs are not installed here; something else is.
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join(format!("{unit}.service"));
        fs::write(&copy, text.replace(start[0], "/bin/true")).unwrap();
        analyze(&["verify", "--man=no"], &copy);
        analyze(&["security", "--offline=true", "--threshold", EXPOSURE], &copy);
    }
}

fn analyze(arguments: &[&str], unit: &Path) {
    let output =
        Command::new("systemd-analyze").args(arguments).arg(unit).output().expect("it was there just now");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
fn the_image_holds_static_binaries_and_nothing_else() {
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    let mut copied = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", base, ..] => assert!(["scratch", "muster"].contains(base), "{line}: no base is pinned"),
            ["COPY", "--chmod=0755", files @ .., "/"] => {
                copied.extend(files.iter().map(|file| (*file).to_owned()))
            }
            ["COPY", "--chown=65532:65532", "data", "/data/"] => {}
            ["USER", user] => {
                assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{line}")
            }
            ["ENTRYPOINT", entry] => assert_eq!(*entry, "[\"/musterd\"]"),
            ["ARG", given] => {
                // What nobody says by default, `make image` says.
                let unknown = given.strip_suffix("=unknown");
                let says = |name| read("Makefile").contains(&format!("--build-arg \"{name}="));
                assert!(unknown.is_none_or(says), "{line}: the Makefile does not say it");
            }
            ["LABEL", ..] => {}
            _ => panic!("{line}: an image of binaries needs no such thing"),
        }
    }
    copied.retain(|file| file != "nats-server");
    assert_eq!(copied, PROGRAMS);
}

#[test]
fn compose_starts_what_there_is() {
    let file = yaml("deploy/compose.yaml").remove(0);
    for (name, service) in file["services"].as_object().unwrap() {
        let words = |key: &str| -> Vec<String> {
            let all = service[key].as_array().into_iter().flatten();
            all.map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        let mut line = words("entrypoint");
        if line.is_empty() {
            line.push("/musterd".to_owned());
        }
        line.extend(words("command"));
        let variables: Vec<&str> =
            service["environment"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        check(&line.iter().map(String::as_str).collect::<Vec<_>>(), &variables);
        assert!(service["read_only"] == true && service["cap_drop"][0] == "ALL", "{name}");
    }
}

#[test]
fn examples_for_gitops_name_files_that_are_there() {
    let argo = yaml("deploy/gitops/argocd.yaml");
    let flux = yaml("deploy/gitops/flux.yaml");
    let folder = argo[0].pointer("/spec/source/path").unwrap().as_str().unwrap();
    let mut files: Vec<String> = Vec::new();
    for file in argo[0].pointer("/spec/source/helm/valueFiles").unwrap().as_array().unwrap() {
        files.push(format!("{folder}/{}", file.as_str().unwrap()));
    }
    for file in flux[1].pointer("/spec/chart/spec/valuesFiles").unwrap().as_array().unwrap() {
        files.push(file.as_str().unwrap().to_owned());
    }
    for file in files {
        assert!(root().join(&file).exists(), "{file} is not there");
    }
}

/// One version everywhere: of the crates, the charts, and the images that files name.
#[test]
fn a_release_has_one_version() {
    let version = env!("CARGO_PKG_VERSION");
    for chart in ["helm/muster", "helm/muster-crds"] {
        let chart = yaml(&format!("{chart}/Chart.yaml")).remove(0);
        assert_eq!((&chart["version"], &chart["appVersion"]), (&version.into(), &version.into()), "{chart}");
    }
    assert!(read("deploy/Dockerfile").contains(&format!("ARG VERSION={version}\n")));
    for file in ["Makefile", "deploy/compose.yaml", "deploy/kind.md", "docs/releasing.md"] {
        let text = read(file);
        let mut named = 0;
        for (at, _) in text.match_indices("muster/muster").filter(|(at, _)| !text[..*at].ends_with('/')) {
            let Some(tag) = text[at..].split(char::is_whitespace).next().and_then(|it| it.split_once(':'))
            else {
                continue;
            };
            named += 1;
            assert_eq!(tag.1.trim_end_matches(['`', '.', ',']), version, "{file}");
        }
        assert!(named > 0, "{file} names no image");
    }
}
