//! What the README says under "On Kubernetes", executed line by line, as far as a machine without containers goes.

use std::path::Path;
use std::process::Stdio;

use cluster::{NAMESPACE, Plane, have, root, tool};
use tokio::process::Command;

use super::bootstrap::PROGRAMS;
use super::rig::Rig;

/// What is not executed, and why. Everything else that stands there is.
const NOT_HERE: [(&str, &str); 1] = [("make image", "wants a container runtime")];
/// The command after which the operator works here, as a process and not in its Pod.
const DEFINITIONS: &str = "helm install muster-crds";

/// The commands of a section of a page: the lines of its `sh` blocks.
fn commands(page: &str, heading: &str) -> Vec<String> {
    let (_, section) = page.split_once(heading).expect("the page has this section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// Runs a command as it stands there, but for the namespace, which is the one of these tests.
async fn run(line: &str, (kubeconfig, home): (&Path, &Path), rig: Option<&Rig>) -> String {
    let line = line.replace("--namespace muster", &format!("--namespace {NAMESPACE}"));
    let folders =
        [tool("kubectl"), live::binary("muster")].map(|program| program.parent().unwrap().to_owned());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut command = Command::new("bash");
    // Contexts of whoever runs the tests are none of theirs.
    for name in ["MUSTER_CONFIG", "MUSTER_CONTEXT", "MUSTER_TOKEN"] {
        command.env_remove(name);
    }
    let output = command
        .args(["-euc", &line])
        .current_dir(root())
        .env("PATH", path)
        .envs(rig.map(|rig| rig.cli().env()).unwrap_or_default())
        .env("KUBECONFIG", kubeconfig)
        .env("KUBECACHEDIR", home)
        .env("XDG_CONFIG_HOME", home)
        .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, home)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "$ {line}\n{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_is_right_about_kubernetes() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let page = std::fs::read_to_string(root().join("README.md")).unwrap();
    let all = commands(&page, "\n## On Kubernetes\n");
    assert!(all.len() >= 5, "{all:?}");
    let plane = Plane::start().await;
    let (kubeconfig, home) = (plane.path("kubeconfig"), plane.path("helm"));
    let (mut plane, mut rig) = (Some(plane), None::<Rig>);
    for line in &all {
        if let Some((_, why)) = NOT_HERE.iter().find(|(command, _)| line.starts_with(command)) {
            eprintln!("NOT EXECUTED: {line}: {why}");
            continue;
        }
        let said = run(line, (&kubeconfig, &home), rig.as_ref()).await;
        if line.starts_with(DEFINITIONS) {
            rig = Some(Rig::around(plane.take().unwrap()).await);
        }
        if line.starts_with("kubectl get") {
            assert!(said.contains("policy.muster.dev/firewall-servers"), "{said}");
            assert!(said.contains("/servers/web") && !said.contains("False"), "{said}");
        }
    }
    // What kubectl applied is what the fleet has.
    let rig = rig.expect("the README installs the definitions");
    let shown = rig.cli().json("policy show firewall-servers").await;
    assert_eq!(shown["manager"], format!("kubernetes:{NAMESPACE}"));
}
