//! The contract: every name is explained, and a number means one thing for ever.

use std::collections::BTreeMap;

use prost_types::field_descriptor_proto::Label;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, MessageOptions,
    ServiceDescriptorProto,
};
use protox::file::File;

use crate::tree::Tree;

/// Every number that was ever given to a field, with its name and type.
pub const LOCK: &str = "proto/numbers.lock";

/// What stands at the top of [`LOCK`].
const LOCK_HEADER: &str = "\
# Every number of proto/ and what it means. A test adds new lines (UPDATE=1) and never takes one away: a field that
# goes leaves its number and name `reserved`, for old bytes may still carry it.
";

/// A field or an enum value: where it stands, what it is called, what it holds.
struct Entry {
    /// Message or enum, and number.
    key: (String, i32),
    /// Name and type, as the lock writes them.
    meaning: String,
    commented: bool,
}

/// All that one pass over the contract finds.
#[derive(Default)]
struct Contract {
    entries: Vec<Entry>,
    /// Messages, enums, services and methods without a comment.
    unexplained: Vec<String>,
    /// Numbers and names that each message or enum reserves.
    reserved: BTreeMap<String, (Vec<std::ops::Range<i32>>, Vec<String>)>,
    broken: Vec<String>,
}

/// The comments of one file, by the path of what they explain.
struct Comments(Vec<Vec<i32>>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let spoken = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.trim().is_empty());
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        Self(
            locations
                .filter(|l| spoken(&l.leading_comments) || spoken(&l.trailing_comments))
                .map(|l| l.path.clone())
                .collect(),
        )
    }

    fn at(&self, path: &[i32]) -> bool {
        self.0.iter().any(|known| known == path)
    }
}

fn down(path: &[i32], field: i32, index: usize) -> Vec<i32> {
    let index = i32::try_from(index).expect("a file has fewer than 2^31 parts");
    [path, &[field, index]].concat()
}

impl Contract {
    fn read(tree: &Tree) -> Self {
        let mut contract = Self::default();
        for (path, text) in tree.ending(".proto").filter(|(path, _)| path.starts_with("proto/muster/")) {
            match File::from_source(path, text) {
                Ok(file) => contract.file(path, file.file_descriptor_proto()),
                Err(error) => contract.broken.push(format!("{path}: does not read as protobuf: {error}")),
            }
        }
        contract
    }

    fn file(&mut self, path: &str, file: &FileDescriptorProto) {
        let comments = Comments::of(file);
        let package = file.package();
        let folder = path.trim_start_matches("proto/").rsplit_once('/').map_or("", |(folder, _)| folder);
        let version = package.rsplit('.').next().unwrap_or_default();
        let versioned =
            version.strip_prefix('v').is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()));
        if !versioned || folder.replace('/', ".") != package {
            self.broken.push(format!("{path}: package {package} must be its folder, and end in a version"));
        }
        for (i, message) in file.message_type.iter().enumerate() {
            self.message(&comments, &down(&[], 4, i), package, message);
        }
        for (i, list) in file.enum_type.iter().enumerate() {
            self.enumeration(&comments, &down(&[], 5, i), package, list);
        }
        for (i, service) in file.service.iter().enumerate() {
            self.service(&comments, &down(&[], 6, i), package, service);
        }
    }

    fn explain(&mut self, comments: &Comments, path: &[i32], name: &str) {
        if !comments.at(path) {
            self.unexplained.push(format!("{name}: has no comment"));
        }
    }

    fn message(&mut self, comments: &Comments, path: &[i32], parent: &str, message: &DescriptorProto) {
        if message.options.as_ref().is_some_and(MessageOptions::map_entry) {
            return;
        }
        let name = format!("{parent}.{}", message.name());
        self.explain(comments, path, &name);
        for (i, field) in message.field.iter().enumerate() {
            let meaning = format!("{} {}", field_type(message, field), field.name());
            self.entries.push(Entry {
                key: (name.clone(), field.number()),
                meaning,
                commented: comments.at(&down(path, 2, i)),
            });
        }
        let ranges = message.reserved_range.iter().map(|r| r.start()..r.end()).collect();
        self.reserved.insert(name.clone(), (ranges, message.reserved_name.clone()));
        for (i, nested) in message.nested_type.iter().enumerate() {
            self.message(comments, &down(path, 3, i), &name, nested);
        }
        for (i, list) in message.enum_type.iter().enumerate() {
            self.enumeration(comments, &down(path, 4, i), &name, list);
        }
    }

    fn enumeration(&mut self, comments: &Comments, path: &[i32], parent: &str, list: &EnumDescriptorProto) {
        let name = format!("{parent}.{}", list.name());
        self.explain(comments, path, &name);
        for (i, value) in list.value.iter().enumerate() {
            self.entries.push(Entry {
                key: (name.clone(), value.number()),
                meaning: value.name().to_owned(),
                commented: comments.at(&down(path, 2, i)),
            });
        }
        // Unlike those of messages, the ranges of enums include their end.
        let ranges = list.reserved_range.iter().map(|r| r.start()..r.end() + 1).collect();
        self.reserved.insert(name, (ranges, list.reserved_name.clone()));
    }

    fn service(&mut self, comments: &Comments, path: &[i32], parent: &str, service: &ServiceDescriptorProto) {
        let name = format!("{parent}.{}", service.name());
        self.explain(comments, path, &name);
        for (i, method) in service.method.iter().enumerate() {
            self.explain(comments, &down(path, 2, i), &format!("{name}.{}", method.name()));
        }
    }
}

/// The type of a field as a person writes it.
fn field_type(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let is_map = |m: &&DescriptorProto| m.options.as_ref().is_some_and(MessageOptions::map_entry);
    let entry = message.nested_type.iter().filter(is_map).find(|m| m.name() == field.type_name());
    if let Some([key, value]) = entry.map(|entry| entry.field.as_slice()) {
        return format!("map<{}, {}>", field_type(message, key), field_type(message, value));
    }
    let label = if field.label() == Label::Repeated { "repeated " } else { "" };
    // Types of our own carry a name; of the others the kind is all.
    let kind = field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase();
    format!("{label}{}", field.type_name.as_ref().unwrap_or(&kind))
}

/// Every file reads, lies in the folder of its package, and explains each message, field, value and method.
#[must_use]
pub fn is_explained(tree: &Tree) -> Vec<String> {
    let contract = Contract::read(tree);
    let mut found = contract.broken;
    found.extend(contract.unexplained);
    for entry in contract.entries.iter().filter(|entry| !entry.commented) {
        found.push(format!("{}: {} = {} has no comment", entry.key.0, entry.meaning, entry.key.1));
    }
    found
}

fn locked(tree: &Tree) -> BTreeMap<(String, i32), String> {
    let entry = |line: &str| {
        let (key, meaning) = line.split_once(" = ")?;
        let (owner, number) = key.rsplit_once(' ')?;
        Some(((owner.to_owned(), number.parse().ok()?), meaning.to_owned()))
    };
    tree.text(LOCK).unwrap_or_default().lines().filter_map(entry).collect()
}

/// A number keeps its meaning, or is reserved; new ones are entered in [`LOCK`].
#[must_use]
pub fn numbers_are_kept(tree: &Tree) -> Vec<String> {
    if tree.text(LOCK).is_none() {
        return vec![format!("{LOCK}: missing; UPDATE=1 writes it")];
    }
    let contract = Contract::read(tree);
    let locked = locked(tree);
    let now: BTreeMap<_, _> = contract.entries.iter().map(|e| (&e.key, &e.meaning)).collect();
    let mut found = Vec::new();
    for (key, meaning) in &locked {
        let place = format!("{} = {}", key.0, key.1);
        match now.get(key) {
            Some(same) if *same == meaning => {}
            Some(other) => found.push(format!("{place}: was `{meaning}`, is `{other}`: take a new number")),
            None => {
                let (ranges, names) = contract.reserved.get(&key.0).cloned().unwrap_or_default();
                let name = meaning.rsplit(' ').next().unwrap_or_default();
                if !ranges.iter().any(|range| range.contains(&key.1)) || !names.iter().any(|n| n == name) {
                    found.push(format!("{place}: `{meaning}` is gone: reserve the number and the name"));
                }
            }
        }
    }
    for (key, meaning) in now.iter().filter(|(key, _)| !locked.contains_key(**key)) {
        found.push(format!("{} = {}: `{meaning}` is not in {LOCK}; UPDATE=1 enters it", key.0, key.1));
    }
    found
}

/// The text of [`LOCK`] with what is new entered and nothing taken away.
#[must_use]
pub fn lock_with_new_numbers(tree: &Tree) -> String {
    let mut all = locked(tree);
    for entry in Contract::read(tree).entries {
        all.entry(entry.key).or_insert(entry.meaning);
    }
    let lines = all.iter().map(|((owner, number), meaning)| format!("{owner} {number} = {meaning}\n"));
    LOCK_HEADER.chars().chain(lines.collect::<String>().chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "proto/muster/a/v1/a.proto";

    fn proto(body: &str) -> String {
        format!("syntax = \"proto3\";\npackage muster.a.v1;\n{body}")
    }

    fn check(rule: fn(&Tree) -> Vec<String>, body: &str, lock: &str, expected: &[&str]) {
        let found = rule(&Tree::of(&[(PATH, &proto(body)), (LOCK, lock)]));
        assert_eq!(found.len(), expected.len(), "{body}: {found:?}");
        assert!(found.iter().zip(expected).all(|(v, part)| v.contains(part)), "{found:?}");
    }

    #[test]
    fn what_is_not_explained_is_found() {
        let good = "// M.\nmessage M {\n  // A.\n  string a = 1; map<string, string> b = 2; // B.\n}\n";
        check(is_explained, good, "", &[]);
        check(
            is_explained,
            "message M {\n  string a = 1;\n}",
            "",
            &["M: has no comment", "string a = 1 has no"],
        );
        check(is_explained, "// E.\nenum E {\n  A = 0;\n}", "", &["E: A = 0 has no comment"]);
        check(
            is_explained,
            "// S.\nservice S {\n  rpc Get(M) returns (M);\n}",
            "",
            &["S.Get: has no comment"],
        );
        check(is_explained, "message {", "", &["does not read as protobuf"]);
        let elsewhere = Tree::of(&[("proto/muster/b/v1/a.proto", &proto(""))]);
        assert!(is_explained(&elsewhere)[0].contains("must be its folder"));
    }

    #[test]
    fn numbers_that_change_meaning_are_found() {
        assert!(numbers_are_kept(&Tree::of(&[]))[0].contains("missing"));
        let lock = "# x\nmuster.a.v1.M 1 = string a\nmuster.a.v1.E 0 = A\n";
        let rest = "enum E { A = 0; }";
        check(numbers_are_kept, &format!("message M {{ string a = 1; }} {rest}"), lock, &[]);
        check(
            numbers_are_kept,
            &format!("message M {{ string b = 1; }} {rest}"),
            lock,
            &["was `string a`, is `string b`"],
        );
        check(
            numbers_are_kept,
            &format!("message M {{ bytes a = 1; }} {rest}"),
            lock,
            &["take a new number"],
        );
        check(
            numbers_are_kept,
            &format!("message M {{ repeated string a = 1; }} {rest}"),
            lock,
            &["take a new"],
        );
        check(
            numbers_are_kept,
            &format!("message M {{ map<string, M> a = 1; }} {rest}"),
            lock,
            &["is `map<string, M> a`"],
        );
        check(numbers_are_kept, &format!("message M {{ }} {rest}"), lock, &["is gone"]);
        check(numbers_are_kept, &format!("message M {{ reserved 1; }} {rest}"), lock, &["is gone"]);
        check(numbers_are_kept, &format!("message M {{ reserved 1; reserved \"a\"; }} {rest}"), lock, &[]);
        check(
            numbers_are_kept,
            &format!("message M {{ string a = 1; M b = 2; }} {rest}"),
            lock,
            &["`M b` is not in"],
        );
    }

    #[test]
    fn the_lock_only_grows() {
        let lock = "muster.a.v1.M 1 = string a\n";
        let tree = Tree::of(&[
            (PATH, &proto("message M { reserved 1; reserved \"a\"; string b = 2; }")),
            (LOCK, lock),
        ]);
        let grown = lock_with_new_numbers(&tree);
        assert!(grown.ends_with("muster.a.v1.M 1 = string a\nmuster.a.v1.M 2 = string b\n"), "{grown}");
    }
}
