//! The chart's README and schema against its values and against what the programs take.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use offline::golden;
use offline::tree::root;
use serde_json::Value;

const README: &str = "helm/muster/README.md";
const BEGIN: &str = "<!-- values -->\n";
const END: &str = "<!-- end of values -->\n";

/// Flags of services that the chart sets from other values, or that make no sense in a Pod.
const NOT_OPTIONS: [&str; 1] = ["work-dir"];

/// A key of a file of values.
#[derive(Default)]
struct Key {
    path: String,
    default: String,
    comment: String,
    below: Vec<Key>,
}

/// Reads keys below `prefix`, their defaults and the comments above them. Lists and what is in them are defaults.
fn keys(text: &str, prefix: &str) -> Vec<Key> {
    let mut top = Key { path: prefix.to_owned(), ..Key::default() };
    let (mut comment, mut depth): (Vec<&str>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        if let Some(said) = bare.strip_prefix('#') {
            comment.push(said.trim());
        } else if bare.is_empty() {
            comment.clear();
        } else if let Some((name, value)) =
            bare.split_once(':').filter(|(name, _)| !name.contains(['-', '{', '[', ' ']))
        {
            while depth.last().is_some_and(|(above, _)| *above >= indent) {
                depth.pop();
            }
            let parent = depth.iter().fold(&mut top, |key, (_, at)| &mut key.below[*at]);
            let path =
                if parent.path.is_empty() { name.to_owned() } else { format!("{}.{name}", parent.path) };
            let comment = std::mem::take(&mut comment).join(" ");
            parent.below.push(Key { path, default: value.trim().to_owned(), comment, below: Vec::new() });
            depth.push((indent, parent.below.len() - 1));
        }
    }
    top.below
}

fn is_explained(key: &Key) -> bool {
    !key.comment.is_empty() || key.below.iter().any(is_explained)
}

/// One line for each key that is explained; what lies below one that is, and is not explained itself, is its default.
fn rows(key: &Key, table: &mut String) {
    let whole = !key.below.iter().any(is_explained);
    assert!(!whole || !key.comment.is_empty(), "{}: no comment says what it is", key.path);
    if !key.comment.is_empty() {
        let default = match (key.default.as_str(), whole) {
            ("", true) => "see the file".to_owned(),
            ("", false) => String::new(),
            (text, _) => format!("`{text}`"),
        };
        writeln!(table, "| `{}` | {default} | {} |", key.path, key.comment.replace('|', "\\|"))
            .expect("a String takes all");
    }
    key.below.iter().filter(|_| !whole).for_each(|key| rows(key, table));
}

fn tables() -> String {
    let mut text = String::new();
    for (file, prefix) in [("values.yaml", ""), ("charts/nats/values.yaml", "nats")] {
        let values = fs::read_to_string(root().join("helm/muster").join(file)).expect("it can be read");
        writeln!(text, "\n### {file}\n\n| value | default | meaning |\n| --- | --- | --- |")
            .expect("a String takes all");
        keys(&values, prefix).iter().for_each(|key| rows(key, &mut text));
    }
    text.push('\n');
    text
}

#[test]
fn the_readme_lists_every_value() {
    let page = fs::read_to_string(root().join(README)).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the README has a place for values");
    let (_, after) = rest.split_once(END).expect("and the place ends");
    golden::compare(README, &format!("{before}{BEGIN}{}{END}{after}", tables()));
}

/// Long names of the flags of `musterd SERVICE`.
fn flags(service: &str) -> BTreeSet<String> {
    let command = server::command();
    let service = command.find_subcommand(service).expect("musterd has it");
    service.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
}

#[test]
fn options_of_services_are_those_that_they_take() {
    let text = fs::read_to_string(root().join("helm/muster/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let services = ["policy", "content", "presence", "identity"];
    let all: BTreeMap<&str, BTreeSet<String>> = services.map(|service| (service, flags(service))).into();
    for (service, own) in &all {
        let common = |flag: &String| all.values().all(|flags| flags.contains(flag));
        let mut wanted: BTreeSet<String> = own.iter().filter(|flag| !common(flag)).cloned().collect();
        wanted.retain(|flag| !NOT_OPTIONS.contains(&flag.as_str()));
        // All take it; it means something to those that sign or vouch for content.
        if *service != "presence" {
            wanted.insert("content-threshold".to_owned());
        }
        let options =
            schema.pointer(&format!("/properties/{service}/properties/options/properties")).unwrap();
        let known: BTreeSet<String> = options.as_object().unwrap().keys().cloned().collect();
        assert_eq!(known, wanted, "options of {service} in values.schema.json");
    }
}

/// A key that the schema does not know would be refused by Helm; one that only the schema knows would be a lie.
#[test]
fn the_schema_knows_the_values_and_no_others() {
    for (file, of) in [("helm/muster", ""), ("helm/muster/charts/nats", "nats")] {
        let read = |name: &str| fs::read_to_string(root().join(file).join(name)).unwrap();
        let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
        let known: BTreeSet<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        let mut named: BTreeSet<String> =
            keys(&read("values.yaml"), "").into_iter().map(|key| key.path).collect();
        if of == "nats" {
            // Helm hands it to every subchart.
            named.insert("global".to_owned());
        } else {
            // What the condition of a parent chart reads.
            named.insert("enabled".to_owned());
        }
        assert_eq!(known, named, "{file}");
    }
}
