//! How crates may depend on each other, and what each manifest must say.

use toml::{Table, Value};

use crate::tokens::Token;
use crate::tree::Tree;

/// Sections of a manifest that name dependencies.
const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Lints that the house rules lean on; clippy covers these in `make check`, so they must stay switched on.
const LINTS: [(&str, &str); 7] = [
    ("rust", "unsafe_code"),
    ("clippy", "too_many_lines"),
    ("clippy", "unwrap_used"),
    ("clippy", "allow_attributes_without_reason"),
    ("clippy", "disallowed_methods"),
    ("clippy", "iter_over_hash_type"),
    ("clippy", "await_holding_lock"),
];

/// Dependencies of which a second version loses data or splits types without a word.
const ONE_VERSION: [&str; 11] = [
    "async-nats",
    "ed25519-dalek",
    "opentelemetry",
    "opentelemetry-otlp",
    "opentelemetry_sdk",
    "prost",
    "prost-types",
    "tokio",
    "tonic",
    "tracing",
    "tracing-opentelemetry",
];

/// One crate of ours: folder, name, manifest.
struct Crate<'a> {
    folder: &'a str,
    manifest: Table,
}

impl Crate<'_> {
    fn name(&self) -> &str {
        self.folder.rsplit('/').next().unwrap_or(self.folder)
    }

    /// How far from the domain a crate stands; it may use what stands nearer.
    fn layer(&self) -> usize {
        match self.folder {
            "crates/domain" => 0,
            "crates/wire" | "crates/codec" | "crates/oidc" => 1,
            "crates/runtime" => 2,
            "services/server" => 4,
            folder if folder.starts_with("tests/") => 5,
            _ => 3,
        }
    }

    fn dependencies(&self) -> impl Iterator<Item = &str> {
        SECTIONS
            .iter()
            .filter_map(|s| self.manifest.get(*s)?.as_table())
            .flat_map(Table::keys)
            .map(String::as_str)
    }
}

fn crates(tree: &Tree) -> Vec<Crate<'_>> {
    tree.ending("/Cargo.toml")
        .filter_map(|(path, text)| {
            let folder = path.trim_end_matches("/Cargo.toml");
            Some(Crate { folder, manifest: text.parse().ok()? })
        })
        .collect()
}

/// `domain <- {wire, codec, oidc} <- runtime <- binaries <- tests`, and no service on another.
#[must_use]
pub fn arrows(tree: &Tree) -> Vec<String> {
    let crates = crates(tree);
    let mut found = Vec::new();
    for from in &crates {
        for to in from.dependencies().filter_map(|name| crates.iter().find(|c| c.name() == name)) {
            let test_on_test = from.layer() == 5 && to.layer() == 5;
            let server_on_client = from.layer() == 4 && to.folder.starts_with("crates/") && to.layer() == 3;
            if (to.layer() >= from.layer() && !test_on_test) || server_on_client {
                found.push(format!(
                    "{}/Cargo.toml: {} must not depend on {}",
                    from.folder,
                    from.name(),
                    to.name()
                ));
            }
        }
    }
    found
}

/// One folder, one crate, one name, no nesting; every crate takes versions and lints from the workspace.
#[must_use]
pub fn manifests(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending("/Cargo.toml") {
        if let Err(error) = text.parse::<Table>() {
            found.push(format!("{path}: does not read as TOML: {}", error.message()));
        }
    }
    for one in crates(tree) {
        let manifest = &one.manifest;
        let place = format!("{}/Cargo.toml", one.folder);
        let (top, rest) = one.folder.split_once('/').unwrap_or(("", one.folder));
        if !["crates", "services", "tests"].contains(&top) || rest.contains('/') {
            found.push(format!("{place}: crates lie in crates/, services/ or tests/, one folder each"));
        }
        let package = manifest.get("package").and_then(Value::as_table);
        if package.and_then(|p| p.get("name")?.as_str()) != Some(one.name()) {
            found.push(format!("{place}: the crate must be named as its folder, {}", one.name()));
        }
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            if package.and_then(|p| p.get(field)).is_none_or(|value| !from_workspace(value)) {
                found.push(format!("{place}: package.{field} must come from the workspace"));
            }
        }
        if !manifest.get("lints").is_some_and(from_workspace) {
            found.push(format!("{place}: [lints] workspace = true is missing"));
        }
        for (name, value) in SECTIONS.iter().filter_map(|s| manifest.get(*s)?.as_table()).flatten() {
            if !from_workspace(value) {
                found.push(format!("{place}: {name} must come from [workspace.dependencies]"));
            }
        }
    }
    found
}

fn from_workspace(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

/// The limits that clippy checks are configured, everywhere and as the rules say.
#[must_use]
pub fn lints(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let root: Table = tree.text("Cargo.toml").unwrap_or_default().parse().unwrap_or_default();
    let lints = root.get("workspace").and_then(|w| w.get("lints"));
    for (tool, lint) in LINTS {
        let level = lints.and_then(|l| l.get(tool)?.get(lint)?.as_str());
        if !level.is_some_and(|level| ["warn", "deny", "forbid"].contains(&level)) {
            found.push(format!("Cargo.toml: lint {tool}::{lint} must be on for the workspace"));
        }
    }
    let mut configs: Vec<(&str, &str)> = tree.ending("clippy.toml").collect();
    configs.extend(tree.text("clippy.toml").is_none().then_some(("clippy.toml", "")));
    for (path, text) in configs {
        let config: Table = text.parse().unwrap_or_default();
        for (key, limit) in [("too-many-lines-threshold", 70), ("too-many-arguments-threshold", 5)] {
            if config.get(key).and_then(Value::as_integer).is_none_or(|set| set > limit) {
                found.push(format!("{path}: {key} must be at most {limit}"));
            }
        }
    }
    found
}

/// What a manifest names is used: by a crate's own sources, or by a crate of the workspace.
#[must_use]
pub fn dependencies_are_used(tree: &Tree) -> Vec<String> {
    let crates = crates(tree);
    let mut found = Vec::new();
    for one in &crates {
        let folder = format!("{}/", one.folder);
        let sources: Vec<&[Token]> = tree
            .rust()
            .filter(|(path, _)| path.starts_with(&folder))
            .filter_map(|(_, tokens)| tokens.ok())
            .collect();
        for name in one.dependencies() {
            let word = name.replace('-', "_");
            if !sources.iter().any(|tokens| tokens.iter().any(|token| token.text == word)) {
                found.push(format!("{folder}Cargo.toml: nothing uses {name}"));
            }
        }
    }
    let root: Table = tree.text("Cargo.toml").unwrap_or_default().parse().unwrap_or_default();
    let shared = root.get("workspace").and_then(|w| w.get("dependencies")?.as_table());
    for name in shared.into_iter().flat_map(Table::keys) {
        let ours = crates.iter().any(|one| one.name() == name);
        if !ours && !crates.iter().any(|one| one.dependencies().any(|used| used == name)) {
            found.push(format!("Cargo.toml: no crate uses {name}"));
        }
    }
    found
}

/// A second version of certain dependencies does harm that no compiler sees.
#[must_use]
pub fn one_version(tree: &Tree) -> Vec<String> {
    let lock: Table = tree.text("Cargo.lock").unwrap_or_default().parse().unwrap_or_default();
    let packages: Vec<&Value> =
        lock.get("package").and_then(Value::as_array).map(|all| all.iter().collect()).unwrap_or_default();
    let count =
        |name: &str| packages.iter().filter(|p| p.get("name").and_then(Value::as_str) == Some(name)).count();
    ONE_VERSION
        .iter()
        .filter(|name| count(name) > 1)
        .map(|name| format!("Cargo.lock: {} versions of {name}", count(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"NAME\"\nversion.workspace = true\nedition.workspace = true\n\
        rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n";

    fn with(name: &str, rest: &str) -> String {
        format!("{}{rest}", GOOD.replace("NAME", name))
    }

    #[test]
    fn arrows_that_point_outwards_are_found() {
        let uses = |name: &str| format!("[dependencies]\n{name}.workspace = true\n");
        let check = |from: &str, to: &str, allowed: bool| {
            let name = |folder: &str| folder.rsplit('/').next().unwrap().to_owned();
            let (a, b) = (with(&name(from), &uses(&name(to))), with(&name(to), ""));
            let tree = Tree::of(&[(&format!("{from}/Cargo.toml"), &a), (&format!("{to}/Cargo.toml"), &b)]);
            assert_eq!(arrows(&tree).is_empty(), allowed, "{from} -> {to}: {:?}", arrows(&tree));
        };
        check("crates/wire", "crates/domain", true);
        check("crates/cli", "crates/wire", true);
        check("services/server", "services/policy", true);
        check("tests/live", "crates/agent", true);
        check("tests/bench", "tests/live", true);
        check("crates/codec", "crates/domain", true);
        check("crates/agent", "crates/codec", true);
        check("services/content", "crates/codec", true);
        check("crates/domain", "crates/wire", false);
        check("crates/codec", "crates/wire", false);
        check("crates/wire", "crates/codec", false);
        check("crates/codec", "crates/runtime", false);
        check("crates/wire", "crates/runtime", false);
        check("services/policy", "services/presence", false);
        check("services/policy", "crates/agent", false);
        check("services/server", "crates/cli", false);
        check("crates/agent", "tests/live", false);
    }

    #[test]
    fn manifests_that_stand_alone_are_found() {
        let check = |folder: &str, text: &str, expected: &str| {
            let found = manifests(&Tree::of(&[(&format!("{folder}/Cargo.toml"), text)]));
            assert!(found.iter().any(|v| v.contains(expected)) != expected.is_empty(), "{found:?}");
            assert!(!expected.is_empty() || found.is_empty(), "{found:?}");
        };
        check("crates/a", &with("a", "[dependencies]\nb.workspace = true\n"), "");
        check("crates/a", &with("b", ""), "named as its folder");
        check("crates/a/b", &with("b", ""), "one folder each");
        check("crates/a", &with("a", "[dev-dependencies]\nb = \"1\"\n"), "b must come from");
        check("crates/a", &GOOD.replace("edition.workspace = true", "edition = \"2021\""), "package.edition");
        check("crates/a", "[package", "does not read as TOML");
    }

    #[test]
    fn lints_that_are_off_are_found() {
        let off = "[workspace.lints.clippy]\ntoo_many_lines = \"allow\"\n";
        let found = lints(&Tree::of(&[
            ("Cargo.toml", off),
            ("crates/a/clippy.toml", "too-many-lines-threshold = 90"),
        ]));
        for expected in
            ["clippy::too_many_lines", "crates/a/clippy.toml: too-many-lines", "clippy.toml: too-many-arg"]
        {
            assert!(found.iter().any(|v| v.contains(expected)), "{expected}: {found:?}");
        }
    }

    #[test]
    fn unused_dependencies_are_found() {
        let manifest = with("a", "[dependencies]\nb-c.workspace = true\nd.workspace = true\n");
        let found = dependencies_are_used(&Tree::of(&[
            (
                "Cargo.toml",
                "[workspace.dependencies]\na.path = \"crates/a\"\nb-c = \"1\"\nd = \"1\"\ne = \"1\"\n",
            ),
            ("crates/a/Cargo.toml", &manifest),
            ("crates/a/src/lib.rs", "use b_c::X; // and d"),
        ]));
        assert_eq!(found, ["crates/a/Cargo.toml: nothing uses d", "Cargo.toml: no crate uses e"]);
    }

    #[test]
    fn a_second_version_is_found() {
        let lock = "[[package]]\nname = \"tonic\"\nversion = \"1.0.0\"\n".repeat(2);
        assert_eq!(one_version(&Tree::of(&[("Cargo.lock", &lock)])), ["Cargo.lock: 2 versions of tonic"]);
    }
}
