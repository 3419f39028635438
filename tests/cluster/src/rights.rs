//! What a ServiceAccount may do, as a chart says it, and what it has asked for, as the API server wrote it down.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::objects::Objects;
use crate::plane::NAMESPACE;

/// A request, or a kind of request that a rule allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// As RBAC has it.
    pub verb: String,
    /// API group; empty for the core.
    pub group: String,
    /// Plural, with `/` and the subresource.
    pub resource: String,
    /// Name of the object; empty in a rule for all, and in a request that names none.
    pub name: String,
    /// Where; empty in a rule for all namespaces, and in a request for all.
    pub namespace: String,
}

/// What was asked for, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What for.
    pub right: Right,
    /// HTTP status.
    pub code: u64,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group: _, resource, name, namespace } = self;
        let name = if name.is_empty() { String::new() } else { format!(" {name}") };
        let place = if namespace.is_empty() { "everywhere".to_owned() } else { format!("in {namespace}") };
        write!(f, "{verb} {resource}{name} {place}")
    }
}

impl Right {
    /// Whether this rule allows that request.
    #[must_use]
    pub fn allows(&self, request: &Self) -> bool {
        let open = |mine: &str, its: &str| mine.is_empty() || mine == its;
        (&self.verb, &self.group, &self.resource) == (&request.verb, &request.group, &request.resource)
            && open(&self.name, &request.name)
            && open(&self.namespace, &request.namespace)
    }
}

impl Asked {
    /// Reads an event of the audit log, if it is about an object.
    pub(crate) fn read(event: &Value) -> Option<Self> {
        let about = event["objectRef"].as_object()?;
        let text = |key: &str| about.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let part = text("subresource");
        let slash = if part.is_empty() { "" } else { "/" };
        let right = Right {
            verb: event["verb"].as_str().unwrap_or_default().to_owned(),
            group: text("apiGroup"),
            resource: format!("{}{slash}{part}", text("resource")),
            name: text("name"),
            namespace: text("namespace"),
        };
        Some(Self { right, code: event["responseStatus"]["code"].as_u64().unwrap_or_default() })
    }
}

/// Bindings of a ServiceAccount of [`NAMESPACE`], each with its role.
///
/// # Panics
/// If one of them names a role that the chart does not make.
#[must_use]
pub fn bindings<'a>(objects: &'a Objects, account: &str) -> Vec<(&'a Value, &'a Value)> {
    let is_it = |subject: &Value| {
        subject["kind"] == "ServiceAccount" && subject["name"] == account && subject["namespace"] == NAMESPACE
    };
    let bindings = objects.of("RoleBinding").chain(objects.of("ClusterRoleBinding"));
    let of_it = bindings.filter(|binding| binding["subjects"].as_array().into_iter().flatten().any(is_it));
    let text = |value: &'a Value| value.as_str().expect("a role is named by kind and name");
    let with_role = of_it.map(|binding| {
        let role = &binding["roleRef"];
        (binding, objects.get(text(&role["kind"]), text(&role["name"])))
    });
    with_role.collect()
}

/// All that a chart lets a ServiceAccount do.
///
/// # Panics
/// If a rule is not what Kubernetes takes.
#[must_use]
pub fn granted(objects: &Objects, account: &str) -> BTreeSet<Right> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.map(|text| text.as_str().expect("rules hold texts").to_owned()).collect()
    };
    let mut all = BTreeSet::new();
    for (binding, role) in bindings(objects, account) {
        let namespace = match binding["kind"].as_str() {
            Some("RoleBinding") => binding["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE),
            _ => "",
        };
        for rule in role["rules"].as_array().expect("a role has rules") {
            let mut names = texts(&rule["resourceNames"]);
            if names.is_empty() {
                names.push(String::new());
            }
            for (group, resource) in product(&texts(&rule["apiGroups"]), &texts(&rule["resources"])) {
                for (verb, name) in product(&texts(&rule["verbs"]), &names) {
                    let (group, resource, namespace) =
                        (group.clone(), resource.clone(), namespace.to_owned());
                    all.insert(Right { verb, group, resource, name, namespace });
                }
            }
        }
    }
    all
}

fn product(some: &[String], others: &[String]) -> Vec<(String, String)> {
    some.iter().flat_map(|one| others.iter().map(|other| (one.clone(), other.clone()))).collect()
}

/// The rights that nothing of this needed.
#[must_use]
pub fn unused(granted: &BTreeSet<Right>, asked: &[Asked]) -> Vec<String> {
    let used = |right: &&Right| asked.iter().any(|one| right.allows(&one.right));
    granted.iter().filter(|right| !used(right)).map(ToString::to_string).collect()
}

/// Checks that the rights are sufficient: nothing was refused but `refused`, and nothing was allowed that the chart does not
/// grant.
///
/// # Panics
/// If they are not.
pub fn sufficient(granted: &BTreeSet<Right>, asked: &[Asked], refused: &[&str]) {
    let (no, yes): (Vec<&Asked>, Vec<&Asked>) = asked.iter().partition(|one| one.code == 403);
    let no: BTreeSet<String> = no.iter().map(|one| one.right.to_string()).collect();
    assert_eq!(no, refused.iter().map(ToString::to_string).collect(), "refused");
    let beyond = yes.iter().filter(|one| !granted.iter().any(|right| right.allows(&one.right)));
    let beyond: BTreeSet<String> = beyond.map(|one| one.right.to_string()).collect();
    assert!(beyond.is_empty(), "allowed by somebody else than the chart: {beyond:?}");
}

/// Checks that the rights are [`sufficient`] and minimal: nothing was granted that was not asked for, but for what is
/// `excused`, which stands there with a reason.
///
/// # Panics
/// If they are not, or an excuse is of no use.
pub fn settle(granted: &BTreeSet<Right>, asked: &[Asked], excused: &[(&str, &str)], refused: &[&str]) {
    assert!(!granted.is_empty(), "the chart grants something");
    sufficient(granted, asked, refused);
    let excused: Vec<&str> = excused.iter().map(|(right, _)| *right).collect();
    assert_eq!(unused(granted, asked), excused, "rights that nothing needed");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let subjects = json!([{ "kind": "ServiceAccount", "name": "me", "namespace": NAMESPACE }]);
        let binding = |kind: &str, role: (&str, &str), namespace: Option<&str>| {
            json!({
                "kind": kind, "metadata": { "name": role.1, "namespace": namespace }, "subjects": subjects,
                "roleRef": { "kind": role.0, "name": role.1 },
            })
        };
        let role = |kind: &str, name: &str, rule: Value| json!({ "kind": kind, "metadata": { "name": name }, "rules": [rule] });
        let leases = json!({
            "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["a", "b"],
            "verbs": ["get", "update"],
        });
        let secrets = json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["create"] });
        Objects(vec![
            role("Role", "leases", leases),
            binding("RoleBinding", ("Role", "leases"), Some(NAMESPACE)),
            role("ClusterRole", "secrets", secrets),
            binding("ClusterRoleBinding", ("ClusterRole", "secrets"), None),
        ])
    }

    fn asked(verb: &str, resource: &str, (name, namespace): (&str, &str), code: u64) -> Asked {
        let group = if resource == "leases" { "coordination.k8s.io" } else { "" };
        let event = json!({
            "verb": verb, "responseStatus": { "code": code },
            "objectRef": { "apiGroup": group, "resource": resource, "name": name, "namespace": namespace },
        });
        Asked::read(&event).unwrap()
    }

    #[test]
    fn a_right_is_used_by_what_it_allows_alone() {
        let granted = granted(&objects(), "me");
        assert_eq!(granted.len(), 5, "{granted:?}");
        assert!(super::granted(&objects(), "another").is_empty());
        let used = |one: Asked| 5 - unused(&granted, &[one]).len();
        assert_eq!(used(asked("get", "leases", ("a", NAMESPACE), 200)), 1);
        assert_eq!(used(asked("create", "secrets", ("", "anywhere"), 201)), 1);
        // Another verb, name, namespace or kind.
        assert_eq!(used(asked("patch", "leases", ("a", NAMESPACE), 200)), 0);
        assert_eq!(used(asked("get", "leases", ("c", NAMESPACE), 200)), 0);
        assert_eq!(used(asked("get", "leases", ("", NAMESPACE), 200)), 0);
        assert_eq!(used(asked("get", "leases", ("a", "anywhere"), 200)), 0);
        assert_eq!(used(asked("create", "leases", ("a", NAMESPACE), 200)), 0);
    }

    #[test]
    #[should_panic(expected = "allowed by somebody else than the chart")]
    fn what_others_allow_does_not_pass_for_the_chart() {
        sufficient(&granted(&objects(), "me"), &[asked("list", "secrets", ("", NAMESPACE), 200)], &[]);
    }

    #[test]
    #[should_panic(expected = "get secrets x in fleet")]
    fn a_refusal_is_found() {
        sufficient(&granted(&objects(), "me"), &[asked("get", "secrets", ("x", NAMESPACE), 403)], &[]);
    }

    #[test]
    #[should_panic(expected = "rights that nothing needed")]
    fn an_excuse_for_what_was_needed_is_found() {
        let all = [asked("create", "secrets", ("", NAMESPACE), 201)];
        settle(&granted(&objects(), "me"), &all, &[("create secrets everywhere", "it is not")], &[]);
    }
}
