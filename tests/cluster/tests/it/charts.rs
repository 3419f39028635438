//! The charts as a release has them: archives of the same bytes each time, signed, pushed to a registry and had from there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use cluster::{Objects, Schemas, free_port, have, root, tool};
use live::{Process, eventually};
use serde_json::{Value, json};

/// Who signs in this test.
const KEY: &str = "release@example.org";

/// Runs a program to its end. What it says, or the panic of the test.
fn ran(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it can be run");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {said}");
    said
}

fn helm(dir: &Path) -> Command {
    let mut helm = Command::new(tool("helm"));
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(name, dir.join("home"));
    }
    helm.current_dir(dir);
    helm
}

/// What `make charts` does, into a folder of its own. Answers the digests that it prints.
fn package(dir: &Path, out: &str, keyring: Option<&Path>) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let bin = tool("helm");
    let mut script = Command::new(root().join("deploy/charts.sh"));
    script.arg(dir.join(out)).env("PATH", format!("{}:{path}", bin.parent().unwrap().display()));
    script.env_remove("MUSTER_CHART_KEY").env_remove("SOURCE_DATE_EPOCH");
    if let Some(keyring) = keyring {
        script.env("MUSTER_CHART_KEY", KEY).env("MUSTER_CHART_KEYRING", keyring);
    }
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A key that signs: the file with its secret, and the one with what everybody may know.
fn keys(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let home = dir.join("gpg");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let gpg = |arguments: &[&str]| {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&home).args(["--batch", "--passphrase", ""]).args(arguments);
        let output = gpg.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    gpg(&["--quick-generate-key", KEY, "rsa3072", "sign", "never"]);
    let (secret, public) = (dir.join("secret.gpg"), dir.join("public.gpg"));
    fs::write(&secret, gpg(&["--export-secret-keys"])).unwrap();
    fs::write(&public, gpg(&["--export"])).unwrap();
    ran(Command::new("gpgconf").arg("--homedir").arg(&home).args(["--kill", "all"]));
    (secret, public)
}

/// A registry that runs, and where charts go in it.
async fn registry(dir: &Path) -> (Process, String) {
    let port = free_port().to_string();
    let mut registry = Command::new(tool("registry"));
    registry.args(["-port", &port]);
    let process = Process::of(dir, "registry", registry.into());
    eventually("the registry listens", async || {
        if process.log().contains("serving on port") { Ok(()) } else { Err(process.log()) }
    })
    .await;
    (process, format!("localhost:{port}/charts"))
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[test]
fn the_same_commit_has_the_same_charts() {
    if !have(&["helm"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let first = package(dir.path(), "first", None);
    assert_eq!(first.lines().count(), 2, "{first}");
    for name in ["muster", "muster-crds"] {
        assert!(first.contains(&format!("{name}-{}.tgz", version())), "{first}");
    }
    // Times of files are none of what a release is.
    ran(Command::new("touch").arg(root().join("helm/muster-crds/Chart.yaml")));
    assert_eq!(package(dir.path(), "second", None), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_are_signed_pushed_and_had_from_a_registry() {
    if !have(&["helm", "registry"]) {
        return;
    }
    if Command::new("gpg").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "gpg is missing");
        eprintln!("SKIPPED: gpg is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (secret, public) = keys(dir.path());
    package(dir.path(), "charts", Some(&secret));
    let (_registry, charts) = registry(dir.path()).await;
    let charts = format!("oci://{charts}");
    for name in ["muster", "muster-crds"] {
        let archive = format!("{name}-{}.tgz", version());
        let path = dir.path().join("charts").join(&archive);
        let said = ran(helm(dir.path()).arg("push").arg(&path).args([&charts, "--plain-http"]));
        assert!(said.contains("Digest: sha256:"), "{said}");
        let pull = |to: &str, keyring: &Path| {
            let mut helm = helm(dir.path());
            helm.args(["pull", &format!("{charts}/{name}"), "--version", version(), "--plain-http"]);
            helm.args(["--destination", to, "--verify", "--keyring"]).arg(keyring);
            fs::create_dir_all(dir.path().join(to)).unwrap();
            helm
        };
        ran(&mut pull("pulled", &public));
        assert_eq!(fs::read(dir.path().join("pulled").join(&archive)).unwrap(), fs::read(&path).unwrap());
        // Whoever has another key, or gets another archive, is told.
        fs::write(dir.path().join("nobody.gpg"), "").unwrap();
        let refused = pull("refused", &dir.path().join("nobody.gpg")).output().unwrap();
        assert!(!refused.status.success(), "{name}");
    }
    let archive = dir.path().join(format!("pulled/muster-crds-{}.tgz", version()));
    ran(helm(dir.path()).arg("verify").arg(&archive).arg("--keyring").arg(&public));
    fs::copy(dir.path().join(format!("pulled/muster-{}.tgz", version())), &archive).unwrap();
    let refused =
        helm(dir.path()).arg("verify").arg(&archive).arg("--keyring").arg(&public).output().unwrap();
    assert!(!refused.status.success(), "another archive under the same name");
}

/// As docs/releasing.md says it, with a key and without the public log, which no test writes to.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_holds_is_signed_by_its_digest() {
    if !have(&["helm", "registry", "cosign"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    package(dir, "charts", None);
    let (_registry, charts) = registry(dir).await;
    let cosign = |arguments: &[&str]| {
        let mut cosign = Command::new(tool("cosign"));
        cosign.args(arguments).current_dir(dir).env("COSIGN_PASSWORD", "").env("HOME", dir);
        cosign
    };
    fs::create_dir(dir.join("other")).unwrap();
    ran(&mut cosign(&["generate-key-pair"]));
    ran(cosign(&["generate-key-pair"]).current_dir(dir.join("other")));
    ran(&mut cosign(&["signing-config", "create", "--out", "no-log.json"]));
    let mut names = Vec::new();
    for name in ["muster", "muster-crds"] {
        let path = dir.join("charts").join(format!("{name}-{}.tgz", version()));
        let oci = format!("oci://{charts}");
        let said = ran(helm(dir).arg("push").arg(&path).args([&oci, "--plain-http"]));
        let digest = said.lines().find_map(|line| line.strip_prefix("Digest: ")).expect("it says the digest");
        names.push(format!("{charts}/{name}@{digest}"));
    }
    let verify = |key: &str, name: &str| {
        cosign(&["verify", "--key", key, "--insecure-ignore-tlog", "--allow-http-registry", name])
    };
    let sign =
        ["sign", "--yes", "--key", "cosign.key", "--signing-config", "no-log.json", "--allow-http-registry"];
    ran(cosign(&sign).arg(&names[0]));
    let said = ran(&mut verify("cosign.pub", &names[0]));
    assert!(said.contains("verified against the specified public key"), "{said}");
    // Not by another key, and not what nobody signed.
    for (key, name) in [("other/cosign.pub", &names[0]), ("cosign.pub", &names[1])] {
        assert!(!verify(key, name).output().unwrap().status.success(), "{key} {name}");
    }
}

/// The examples for Argo CD and Flux against what these two take.
#[test]
fn examples_for_gitops_are_what_argo_cd_and_flux_take() {
    if !have(&["kubeconform", "swagger.json", "crds", "gitops"]) {
        return;
    }
    let check = |objects: &[Value]| {
        let kind = |object: &Value| {
            format!("{}/{}", object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap())
        };
        let kinds: BTreeSet<String> = objects.iter().map(kind).collect();
        let dir = tempfile::tempdir().unwrap();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        fs::write(dir.path().join("list.json"), list.to_string()).unwrap();
        Schemas::of(&kinds).check(dir.path())
    };
    let mut objects = Vec::new();
    for name in ["argocd.yaml", "flux.yaml"] {
        let text = fs::read_to_string(root().join("deploy/gitops").join(name)).unwrap();
        objects.extend(Objects::read(&text).0);
    }
    assert_eq!(objects.len(), 3);
    assert_eq!(check(&objects), Vec::<String>::new());
    // It would notice.
    for object in &objects {
        let mut wrong = object.clone();
        wrong["spec"]["intervall"] = "5m".into();
        assert!(check(&[wrong]).iter().any(|said| said.contains("intervall")), "{object}");
    }
}
