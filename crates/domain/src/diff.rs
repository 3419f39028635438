//! What differs between two documents, value by value.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::document::Pointer;

/// One value that differs. At least one of the two sides is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub pointer: Pointer,
    /// The value before; `None` if it is new.
    pub before: Option<Value>,
    /// The value after; `None` if it goes away.
    pub after: Option<Value>,
}

/// The leaves that differ, in order of pointer. Arrays are compared as a whole, as overlays replace them
/// as a whole; an object that appears or goes away is listed by its leaves.
#[must_use]
pub fn diff(before: Option<&Value>, after: Option<&Value>) -> Vec<Difference> {
    let mut differences = Vec::new();
    walk(before, after, &mut Pointer::root(), &mut differences);
    differences.sort_by(|a, b| a.pointer.cmp(&b.pointer));
    differences
}

fn walk(before: Option<&Value>, after: Option<&Value>, at: &mut Pointer, out: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    let sides = [before, after];
    let names: BTreeSet<&String> =
        sides.iter().flatten().filter_map(|side| side.as_object()).flat_map(serde_json::Map::keys).collect();
    // An object with members is not a leaf; nor is an empty one whose other side has members: they are.
    let leaf = |side: &&Value| !side.is_object() || names.is_empty();
    let [leaf_before, leaf_after] = sides.map(|side| side.filter(leaf));
    if leaf_before.is_some() || leaf_after.is_some() {
        out.push(Difference {
            pointer: at.clone(),
            before: leaf_before.cloned(),
            after: leaf_after.cloned(),
        });
    }
    for name in names {
        at.push(name);
        let [below_before, below_after] = sides.map(|side| side.and_then(|value| value.get(name)));
        walk(below_before, below_after, at, out);
        at.pop();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(before: Option<Value>, after: Option<Value>, expected: &str) {
        let show = |side: &Option<Value>| side.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
        let got: Vec<String> = diff(before.as_ref(), after.as_ref())
            .iter()
            .map(|d| format!("{}: {} -> {}", d.pointer, show(&d.before), show(&d.after)))
            .collect();
        assert_eq!(got.join("; "), expected);
    }

    #[test]
    fn lists_leaves_that_differ() {
        check(Some(json!({"a": 1})), Some(json!({"a": 1})), "");
        check(
            Some(json!({"a": 1, "b": 2})),
            Some(json!({"a": 3, "c": 4})),
            "/a: 1 -> 3; /b: 2 -> -; /c: - -> 4",
        );
        check(None, Some(json!({"a": {"x": [1]}, "b": {}})), "/a/x: - -> [1]; /b: - -> {}");
        check(Some(json!({"a": {"x": 1}})), Some(json!({"a": 2})), "/a: - -> 2; /a/x: 1 -> -");
        check(Some(json!({"a": {}})), Some(json!({"a": {"x": 1}})), "/a/x: - -> 1");
        check(Some(json!({"a": [1, 2]})), Some(json!({"a": [2]})), "/a: [1,2] -> [2]");
        check(Some(json!({})), None, ": {} -> -");
        check(Some(json!({"a": null})), Some(json!({})), "/a: null -> -");
    }
}
