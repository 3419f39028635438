//! Who set which value, and whether an overlay touches a locked place.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Pointer;

/// For each leaf of an overlaid document, the layer that set it. A leaf is anything but an object with
/// members: overlays replace arrays as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance(Node);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    /// A value that is not an object.
    Value(usize),
    /// An object, and the layer that made it what it is while it has no members.
    Object(usize, BTreeMap<Box<str>, Node>),
}

impl Default for Node {
    fn default() -> Self {
        Self::Object(0, BTreeMap::new())
    }
}

impl Provenance {
    /// Follows the merge of one more layer. `layer` is any number that the caller gives it.
    pub fn overlay(&mut self, patch: &Value, layer: usize) {
        merge(&mut self.0, patch, layer);
    }

    /// Each leaf with its layer, in order of pointer.
    #[must_use]
    pub fn leaves(&self) -> Vec<(Pointer, usize)> {
        let mut leaves = Vec::new();
        collect(&self.0, &mut Pointer::root(), &mut leaves);
        leaves
    }

    /// The layer that set what stands at `pointer` (for a place inside an array: the array).
    #[must_use]
    pub fn layer_at(&self, pointer: &Pointer) -> Option<usize> {
        let mut node = &self.0;
        for step in pointer.steps() {
            match node {
                Node::Value(layer) => return Some(*layer),
                Node::Object(_, members) => node = members.get(step)?,
            }
        }
        match node {
            Node::Value(layer) | Node::Object(layer, _) => Some(*layer),
        }
    }
}

fn merge(node: &mut Node, patch: &Value, layer: usize) {
    let Value::Object(changes) = patch else {
        *node = Node::Value(layer);
        return;
    };
    if let Node::Value(_) = node {
        *node = Node::Object(layer, BTreeMap::new());
    }
    let Node::Object(owner, members) = node else { return };
    for (name, change) in changes {
        if !change.is_null() {
            let fresh = || Node::Object(layer, BTreeMap::new());
            merge(members.entry(name.as_str().into()).or_insert_with(fresh), change, layer);
        } else if members.remove(name.as_str()).is_some() && members.is_empty() {
            *owner = layer;
        }
    }
}

fn collect(node: &Node, at: &mut Pointer, leaves: &mut Vec<(Pointer, usize)>) {
    match node {
        Node::Value(layer) => leaves.push((at.clone(), *layer)),
        Node::Object(layer, members) if members.is_empty() => leaves.push((at.clone(), *layer)),
        Node::Object(_, members) => {
            for (name, member) in members {
                at.push(name);
                collect(member, at, leaves);
                at.pop();
            }
        }
    }
}

/// Whether merging `patch` over `base` names the place `lock`, or replaces or removes something above it.
///
/// Naming the place is enough, even with the value that stands there already: whether a policy is
/// refused must not depend on a value that others may change later.
#[must_use]
pub fn touches(base: Option<&Value>, patch: &Value, lock: &Pointer) -> bool {
    let (mut below, mut patch) = (base, patch);
    for step in lock.steps() {
        let Value::Object(changes) = patch else { return true };
        if below.is_some_and(|value| !value.is_object()) {
            return true;
        }
        match changes.get(&**step) {
            None => return false,
            Some(change) => patch = change,
        }
        below = below.and_then(|value| value.get(&**step));
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn locks_cover_the_place_and_all_above_it() {
        let base = json!({"rules": {"ssh": "deny", "list": [1]}, "flat": 1});
        for (patch, lock, expected) in [
            (json!({"rules": {"ssh": "allow"}}), "/rules/ssh", true),
            (json!({"rules": {"ssh": "deny"}}), "/rules/ssh", true),
            (json!({"rules": {"ssh": null}}), "/rules/ssh", true),
            (json!({"rules": null}), "/rules/ssh", true),
            (json!({"rules": []}), "/rules/ssh", true),
            (json!({"rules": {"http": "allow"}}), "/rules/ssh", false),
            (json!({"rules": {}}), "/rules/ssh", false),
            (json!({}), "/rules/ssh", false),
            (json!({"rules": {"ssh": {"port": 1}}}), "/rules/ssh", true),
            (json!({"rules": {"http": 1}}), "/rules", true),
            (json!({"rules": {"list": {"x": 1}}}), "/rules/list/0", true),
            (json!({"flat": {"y": 1}}), "/flat/x", true),
            (json!({"new": {"y": 1}}), "/new/x", false),
            (json!({"anything": 1}), "", true),
        ] {
            let lock = Pointer::new(lock).unwrap();
            assert_eq!(touches(Some(&base), &patch, &lock), expected, "{patch} against {lock}");
        }
    }

    #[test]
    fn provenance_names_the_last_layer_that_set_a_leaf() {
        let mut provenance = Provenance::default();
        provenance.overlay(&json!({"a": {"x": 1, "y": [1]}, "gone": {"z": 1}, "o": {}}), 1);
        provenance.overlay(&json!({"a": {"y": [2]}, "gone": {"z": null}, "late": {"n": {"m": null}}}), 2);
        let leaves: Vec<(String, usize)> =
            provenance.leaves().into_iter().map(|(at, layer)| (at.to_string(), layer)).collect();
        let expected = [("/a/x", 1), ("/a/y", 2), ("/gone", 2), ("/late/n", 2), ("/o", 1)]
            .map(|(p, l)| (p.to_owned(), l));
        assert_eq!(leaves, expected);
        assert_eq!(provenance.layer_at(&Pointer::new("/a/y/0").unwrap()), Some(2));
        assert_eq!(provenance.layer_at(&Pointer::new("/nothing").unwrap()), None);
    }
}
