//! The house rules, held against the real tree. Each rule lives with a test of its own in `src/`.

use std::sync::LazyLock;

use offline::rules::{code, commands, crates, domain, makefile, markdown, proto, size, words};
use offline::{Tree, golden, hold, modules};

static TREE: LazyLock<Tree> = LazyLock::new(Tree::read);

#[test]
fn the_rules_see_every_crate() {
    let seen =
        |folder: &str| TREE.shipped().any(|(path, tokens)| path.starts_with(folder) && !tokens.is_empty());
    for (manifest, _) in TREE.ending("/Cargo.toml").filter(|(path, _)| !path.starts_with("tests/")) {
        assert!(seen(manifest.trim_end_matches("Cargo.toml")), "no source of {manifest} is looked at");
    }
    assert!(TREE.ending("/Cargo.toml").count() >= 8, "the manifests are not seen");
}

#[test]
fn arrows_between_crates_point_one_way() {
    hold(crates::arrows, &TREE);
}

#[test]
fn manifests_take_everything_from_the_workspace() {
    hold(crates::manifests, &TREE);
}

#[test]
fn dependencies_are_used() {
    hold(crates::dependencies_are_used, &TREE);
}

#[test]
fn lints_and_limits_are_switched_on() {
    hold(crates::lints, &TREE);
}

#[test]
fn one_version_of_what_must_not_split() {
    hold(crates::one_version, &TREE);
}

#[test]
fn the_domain_is_pure() {
    hold(domain::is_pure, &TREE);
}

#[test]
fn no_unwrap_outside_tests() {
    hold(code::no_unwrap, &TREE);
}

#[test]
fn no_detached_tasks() {
    hold(code::no_detached_tasks, &TREE);
}

#[test]
fn no_unbounded_queues() {
    hold(code::no_unbounded_queues, &TREE);
}

#[test]
fn silenced_lints_say_why() {
    hold(code::silenced_lints, &TREE);
}

#[test]
fn public_items_are_documented() {
    hold(code::documented, &TREE);
}

#[test]
fn names_say_something() {
    hold(code::names_that_say_something, &TREE);
}

#[test]
fn files_fit_a_sitting() {
    hold(size::files, &TREE);
}

#[test]
fn every_rust_file_is_reached() {
    hold(modules::orphans, &TREE);
}

#[test]
fn the_makefile_is_short() {
    hold(makefile::is_short, &TREE);
}

#[test]
fn make_targets_in_pages_exist() {
    hold(commands::make_targets_exist, &TREE);
}

#[test]
fn links_lead_somewhere() {
    hold(markdown::links_lead_somewhere, &TREE);
}

#[test]
fn the_contract_is_explained() {
    hold(proto::is_explained, &TREE);
}

#[test]
fn numbers_of_the_contract_are_kept() {
    if golden::updating() {
        golden::compare(proto::LOCK, &proto::lock_with_new_numbers(&TREE));
    }
    // What UPDATE wrote is not in TREE: read again.
    hold(proto::numbers_are_kept, &Tree::read());
}

#[test]
fn no_addresses_of_package_registries() {
    hold(words::no_registries, &TREE);
}

#[test]
fn no_paths_of_one_machine() {
    hold(words::no_machine_paths, &TREE);
}

#[test]
fn nothing_is_left_for_later() {
    hold(words::nothing_left_for_later, &TREE);
}
