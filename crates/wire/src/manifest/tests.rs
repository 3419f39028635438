use super::*;
use crate::api::v1::content_reference::Which;
use crate::api::v1::resource::Resource as Any;
use crate::api::v1::{ContentReference, ContentRelease, EnrolmentRule, Group, Mode, Policy, Settings, Token};

/// A manifest of each kind with one part replaced.
fn group(spec: &str) -> String {
    format!("apiVersion: muster.dev/v1alpha1\nkind: Group\nmetadata: {{name: web}}\nspec: {spec}\n")
}

fn named(name: &str) -> String {
    format!(
        "{{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {{name: {name}}}, spec: {{path: /a}}}}"
    )
}

fn policy(document: &str) -> String {
    format!(
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n  kind: k\n  document: {document}\n"
    )
}

fn reference(channel: &str, which: Which) -> ContentReference {
    ContentReference { channel: channel.into(), which: Some(which) }
}

fn one(text: &str) -> Any {
    let located = read("a.yaml", text.as_bytes()).unwrap();
    assert_eq!(located.len(), 1);
    located[0].resource.resource.clone().unwrap()
}

/// A manifest of a token.
fn token(spec: &str) -> String {
    format!("apiVersion: muster.dev/v1alpha1\nkind: EnrollmentToken\nmetadata: {{name: t}}\nspec: {spec}\n")
}

/// The only error of a stream, without the name of the file.
#[track_caller]
fn refused(text: &str, expected: &str) {
    let errors = read("f", text.as_bytes()).unwrap_err();
    let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(got, [format!("f:{expected}")], "{}", text.chars().take(300).collect::<String>());
}

/// What is wrong, whatever the place.
#[track_caller]
fn refused_with(text: &str, field: &str, expected: &str) {
    let errors = read("f", text.as_bytes()).unwrap_err();
    let shown: String = text.chars().take(300).collect();
    let [ManifestError::Document { field: got, problem, .. }] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((got.as_str(), problem.as_str()), (field, expected), "{shown}");
}

/// A manifest of each kind.
const EVERY_KIND: &str = r#"
# A comment before the first document.
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: servers-web, labels: {tier: front, "example.com/site": Köln}}
spec:
  path: /servers/web
  settings: {mode: push, heartbeatInterval: 1m, offlineAfter: 2m30s, contentSpread: 5m, contentRateLimit: 2MiB}
  policies: [firewall-base, firewall-web]
  content: [{channel: definitions/ips, stage: stable}, {channel: models, revision: 12}]
---
{"apiVersion": "muster.dev/v1alpha1", "kind": "PolicyKind", "metadata": {"name": "firewall"},
 "spec": {"schema": {"type": "object"}}}
---
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {name: firewall-base}
spec: {kind: firewall, document: {rules: {ssh: deny, 22: [1, 2.5, yes, null]}}, locks: [/rules/ssh]}
---
apiVersion: muster.dev/v1alpha1
kind: EnrollmentToken
metadata: {name: web}
spec: {group: /servers/web, uses: 10, ttl: 24h}
---
apiVersion: muster.dev/v1alpha1
kind: ContentRelease
metadata: {name: ips-stable}
spec: {channel: definitions/ips, stage: stable, revision: 12}
"#;

#[test]
fn every_kind_is_read() {
    let located = read("a.yaml", EVERY_KIND.as_bytes()).unwrap();
    let seen: Vec<_> = located.iter().map(|it| (it.kind(), it.name(), it.place.line)).collect();
    let expected = [
        ("Group", "servers-web", 4),
        ("PolicyKind", "firewall", 13),
        ("Policy", "firewall-base", 16),
        ("EnrollmentToken", "web", 21),
        ("ContentRelease", "ips-stable", 26),
    ];
    assert_eq!(seen, expected);

    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let group = Group {
        name: "servers-web".into(),
        path: "/servers/web".into(),
        settings: Some(Settings {
            mode: Some(Mode::Push.into()),
            heartbeat_interval: seconds(60),
            offline_after: seconds(150),
            content_spread: seconds(300),
            content_rate_limit: Some(2 << 20),
        }),
        policies: vec!["firewall-base".into(), "firewall-web".into()],
        labels: [("tier", "front"), ("example.com/site", "Köln")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        content: vec![
            reference("definitions/ips", Which::Stage("stable".into())),
            reference("models", Which::Revision(12)),
        ],
        ..Group::default()
    };
    assert_eq!(located[0].resource.resource, Some(Any::Group(group)));

    let document = serde_json::json!({"rules": {"ssh": "deny", "22": [1, 2.5, "yes", null]}});
    let policy = Policy {
        name: "firewall-base".into(),
        kind: "firewall".into(),
        document: crate::document::to_struct(&document).unwrap(),
        locks: vec!["/rules/ssh".into()],
        ..Policy::default()
    };
    assert_eq!(located[2].resource.resource, Some(Any::Policy(policy)));

    let token = Token {
        name: "web".into(),
        group: "/servers/web".into(),
        uses: 10,
        ttl: seconds(86_400),
        ..Token::default()
    };
    assert_eq!(located[3].resource.resource, Some(Any::Token(token)));

    let release = ContentRelease {
        name: "ips-stable".into(),
        channel: "definitions/ips".into(),
        stage: "stable".into(),
        revision: 12,
    };
    assert_eq!(located[4].resource.resource, Some(Any::ContentRelease(release)));
}

#[test]
fn what_is_absent_stays_absent() {
    let Any::Group(read) = one(&group("{path: /}")) else { panic!("a group") };
    assert_eq!(read.settings, Some(Settings::default()));
    assert!(read.policies.is_empty() && read.labels.is_empty());
    assert_eq!(super::read("f", b"").unwrap(), []);
    assert_eq!(super::read("f", b"# nothing\n---\n").unwrap(), []);
}

#[test]
fn json_with_tabs_is_read() {
    let text = "{\n\t\"apiVersion\": \"muster.dev/v1alpha1\",\n\t\"kind\": \"Group\",\n\t\"metadata\": {\"name\": \"web\"},\n\t\"spec\": {\n\t\t\"path\": \"/web\"\n\t}\n}\n";
    assert!(matches!(one(text), Any::Group(group) if group.path == "/web"));
}

#[test]
fn malformed_yaml_names_the_line() {
    for text in ["a: [", "a: b: c", "\t- x", "a: \"x", "&", "{a", "- - :\n -", "%x\n---\n@", "key: *nowhere"]
    {
        let errors = read("f", text.as_bytes()).unwrap_err();
        let shown = errors[0].to_string();
        assert!(shown.starts_with("f:") && shown.contains("(document 1): "), "{text:?}: {shown}");
    }
    refused("just a text", "1:1 (document 1): must be a map of names to values");
}

#[test]
fn unknown_things_are_refused_with_what_is_known() {
    refused(
        "apiVersion: muster.dev/v1\nkind: Group\n",
        "1:13 (document 1): apiVersion: unknown value \"muster.dev/v1\"; allowed: muster.dev/v1alpha1",
    );
    refused(
        "apiVersion: muster.dev/v1alpha1\nkind: Grupo\n",
        "2:7 (document 1): kind: unknown value \"Grupo\"; allowed: Group, PolicyKind, Policy, EnrollmentToken, \
         ContentRelease",
    );
    refused("kind: Group\n", "1:1 (document 1): field apiVersion is missing");
    refused(
        &group("{path: /a, settings: {contentSpred: 5m}}"),
        "4:29 (document 1): spec.settings.contentSpred: unknown field \"contentSpred\"; \
         known here: mode, heartbeatInterval, offlineAfter, contentSpread, contentRateLimit",
    );
    refused_with(
        &group("{path: /a, contents: []}"),
        "spec.contents",
        "unknown field \"contents\"; known here: path, settings, policies, content",
    );
    refused_with(
        &format!("{}status: {{}}\n", group("{path: /a}")),
        "status",
        "unknown field \"status\"; known here: apiVersion, kind, metadata, spec",
    );
    refused_with(&group("{}"), "spec", "field path is missing");
    let labelled = policy("{}").replace("{name: p}", "{name: p, labels: {a: b}}");
    refused_with(&labelled, "metadata.labels", "unknown field \"labels\"; known here: name");
    let long = format!("{{path: /a, {}: 1}}", "x".repeat(900));
    let errors = read("f", group(&long).as_bytes()).unwrap_err();
    assert!(errors[0].to_string().contains("unknown field \"xxx"), "{}", errors[0]);
}

#[test]
fn names_are_checked_where_they_stand() {
    let rest = "only a-z, 0-9, '_' and '-' are allowed";
    for (name, character, at) in [
        ("a.b", "'.'", 1),
        ("'*'", "'*'", 0),
        ("'>'", "'>'", 0),
        (r#""a\r\nPUB x""#, r"'\r'", 1),
        ("ünder", "'ü'", 0),
        ("A", "'A'", 0),
        ("'a b'", "' '", 1),
    ] {
        let problem = format!("has the character {character} at byte {at}; {rest}");
        refused_with(&named(name), "metadata.name", &problem);
    }
    refused_with(&named("''"), "metadata.name", "must not be empty");
    let long = "a".repeat(10_000);
    refused_with(&named(&long), "metadata.name", "is 10000 bytes long; at most 64 are allowed");
    refused_with(&group("{path: a}"), "spec.path", "must start with '/'");
    refused_with(
        &group("{path: /a, policies: [ok, a.b]}"),
        "spec.policies[1]",
        &format!("has the character '.' at byte 1; {rest}"),
    );
}

#[test]
fn values_are_checked_where_they_stand() {
    let duration = "must be a duration such as 90s, 5m or 1h30m (units: d, h, m, s, ms)";
    refused_with(
        &group("{path: /a, settings: {heartbeatInterval: 60}}"),
        "spec.settings.heartbeatInterval",
        duration,
    );
    refused_with(
        &group("{path: /a, settings: {mode: Push}}"),
        "spec.settings.mode",
        "unknown value \"Push\"; allowed: push, pull",
    );
    refused_with(&token("{group: /a, uses: 0}"), "spec.uses", "must be between 1 and 100000");
    refused_with(&token("{group: /a, uses: -1}"), "spec.uses", "must be between 1 and 100000");
    refused_with(&token("{group: /a, ttl: 31d}"), "spec.ttl", "must be between 1s and 30d");
    refused_with(&token("{group: [a]}"), "spec.group", "must be a single value");
    refused_with(&group("{path: /a, policies: x}"), "spec.policies", "must be a list");
    refused_with(&token("{group: /a/, ttl: 1d}"), "spec.group", "segment 2 must not be empty");
    refused_with(
        &policy("{a: 9007199254740993}"),
        "spec.document",
        "has the number 9007199254740993 at /a; beyond ±(2^53 - 1) numbers lose their exact value",
    );
    refused_with(&policy("[1]"), "spec.document", "must be a map of names to values");
    let locked = policy("{}").replace("  document", "  locks: [rules]\n  document");
    refused_with(&locked, "spec.locks[0]", "must be empty or start with '/'");
    let labelled = group("{path: /a}").replace("{name: web}", "{name: web, labels: {'a b': c}}");
    refused_with(
        &labelled,
        "metadata.labels",
        "label key \"a b\" must be 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-' and '/'",
    );
}

#[test]
fn rules_of_tokens_are_checked_where_they_stand() {
    let rules =
        "[{match: {labels: {site: north}, hostname: Web-*}, group: /a/b}, {match: {hostname: db}, group: c}]";
    let Any::Token(read) = one(&token(&format!("{{rules: {rules}, approval: required}}"))) else {
        panic!("a token")
    };
    let rule = |labels: &[(&str, &str)], hostname: &str, group: &str| EnrolmentRule {
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        hostname: hostname.into(),
        group: group.into(),
    };
    assert_eq!(read.rules, [rule(&[("site", "north")], "web-*", "/a/b"), rule(&[], "db", "c")]);
    assert!(read.approval_required && read.group.is_empty());
    let ruled = |rule: &str| {
        token(&format!("{{group: /a, rules: [{{match: {{hostname: '*'}}, group: /b}}, {rule}]}}"))
    };
    let character = "has the character ' '; only letters, digits, '.', '-', '_' and '*' are allowed";
    refused_with(&ruled("{match: {hostname: a b}, group: /b}"), "spec.rules[1].match.hostname", character);
    refused_with(
        &ruled("{match: {hostname: a}, group: b.c}"),
        "spec.rules[1].group",
        "has the character '.' at byte 1; only a-z, 0-9, '_' and '-' are allowed (or a path such as /servers/web)",
    );
    refused_with(
        &ruled("{match: {host: a}, group: /b}"),
        "spec.rules[1].match.host",
        "unknown field \"host\"; known here: labels, hostname",
    );
    refused_with(&ruled("{group: /b}"), "spec.rules[1]", "field match is missing");
    let empty = "rule 2 must have labels or a host name; agents that no rule matches get the token's group";
    refused_with(&ruled("{match: {}, group: /b}"), "spec.rules", empty);
    refused_with(
        &token("{group: /a, approval: yes}"),
        "spec.approval",
        "unknown value \"yes\"; allowed: none, required",
    );
    let many = vec!["{match: {hostname: a}, group: /b}"; 33].join(", ");
    refused_with(&token(&format!("{{rules: [{many}]}}")), "spec.rules", "has more than 32 entries");
}

#[test]
fn content_is_checked_where_it_stands() {
    let content = |entry: &str| {
        format!(
            "apiVersion: muster.dev/v1alpha1\nkind: Group\nmetadata: {{name: web}}\nspec:\n  path: /a\n  content:\n  - \
             {{channel: ok, stage: s}}\n  - {entry}\n"
        )
    };
    refused(
        &content("{channel: a//b, stage: s}"),
        "8:15 (document 1): spec.content[1].channel: \"\" in it must not be empty",
    );
    refused(
        &content("{channel: a, stage: S}"),
        "8:25 (document 1): spec.content[1].stage: has the character 'S' at byte 0; only a-z, 0-9, '_' and '-' \
         are allowed",
    );
    refused(
        &content("{channel: a, revision: 0}"),
        "8:28 (document 1): spec.content[1].revision: must be the number of a revision, from 1",
    );
    refused(
        &content("{channel: a, tag: x}"),
        "8:18 (document 1): spec.content[1].tag: unknown field \"tag\"; known here: channel, stage, revision",
    );
    let either = "channel \"a\" must have either a stage or a revision";
    for entry in ["{channel: a}", "{channel: a, stage: s, revision: 1}"] {
        refused_with(&content(entry), "spec.content", either);
    }
    refused_with(&content("{channel: ok, revision: 1}"), "spec.content", "names channel \"ok\" twice");
    let many: Vec<String> = (0..65).map(|n| format!("{{channel: c{n}, stage: s}}")).collect();
    let many = format!("{{path: /a, content: [{}]}}", many.join(", "));
    refused_with(&group(&many), "spec.content", "has more than 64 entries");

    let rate = |text: &str| group(&format!("{{path: /a, settings: {{contentRateLimit: {text}}}}}"));
    for (text, bytes) in
        [("2MiB", 2 << 20), ("500KiB/s", 500 << 10), ("500000", 500_000), ("0", 0), ("none", 0)]
    {
        let Any::Group(read) = one(&rate(text)) else { panic!("a group") };
        assert_eq!(read.settings.unwrap().content_rate_limit, Some(bytes), "{text}");
    }
    for text in ["2MB", "-1", "1.5MiB", "fast"] {
        refused_with(
            &rate(text),
            "spec.settings.contentRateLimit",
            "must be a size such as 500000, 512KiB or 2MiB (units: B, KiB, MiB, GiB, TiB)",
        );
    }

    let release = |name: &str, spec: &str| {
        format!(
            "apiVersion: muster.dev/v1alpha1\nkind: ContentRelease\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let good = "{channel: a, stage: s, revision: 1}";
    refused_with(
        &release("A", good),
        "metadata.name",
        "has the character 'A' at byte 0; only a-z, 0-9, '_' and '-' are allowed",
    );
    refused_with(&release("a", "{channel: a, stage: s}"), "spec", "field revision is missing");
    refused_with(
        &release("a", "{channel: a, stage: s, revision: 5000000000}"),
        "spec.revision",
        "must be the number of a revision, from 1",
    );
}

#[test]
fn duplicate_keys_are_refused() {
    refused_with(&group("{path: /a, path: /b}"), "spec", "key \"path\" stands twice");
    refused_with(&policy("{a: {b: 1, c: 2, b: 3}}"), "spec.document.a", "key \"b\" stands twice");
}

#[test]
fn every_broken_document_is_reported() {
    let text = format!("{}---\n{}---\n{}", named("A"), group("{path: /ok}"), group("{path: nope}"));
    let errors = read("f", text.replace("}}---", "}}\n---").as_bytes()).unwrap_err();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].starts_with("f:1:"), "{}", shown[0]);
    assert_eq!(shown[1], "f:11:14 (document 3): spec.path: must start with '/'");
}

#[test]
fn aliases_expand_within_bounds() {
    let mut bomb = String::from("{a0: &a0 [x, x, x, x, x, x, x, x, x, x]");
    for level in 1..9 {
        let previous = format!("*a{}", level - 1);
        bomb += &format!(", a{level}: &a{level} [{}]", [previous.as_str(); 10].join(", "));
    }
    bomb += "}";
    refused_with(&policy(&bomb), "spec.document.a4[0][5][2][6]", "aliases expand to too much");

    let Any::Policy(read) = one(&policy("{a: &x {b: 1}, c: *x}")) else { panic!("a policy") };
    let document = crate::document::from_struct(read.document.unwrap()).unwrap();
    assert_eq!(document, serde_json::json!({"a": {"b": 1}, "c": {"b": 1}}));
}

#[test]
fn streams_are_bounded() {
    let too_large = vec![b' '; MAX_BYTES + 1];
    let error = read("f", &too_large).unwrap_err();
    assert_eq!(error, [ManifestError::TooLarge { file: "f".into(), size: MAX_BYTES + 1 }]);
    let many = format!("---\n{}\n", named("a")).repeat(MAX_DOCUMENTS + 1);
    let error = read("f", many.as_bytes()).unwrap_err();
    assert_eq!(error, [ManifestError::TooManyDocuments { file: "f".into() }]);
    let error = read("f", b"a: \xff").unwrap_err();
    assert_eq!(error, [ManifestError::NotUtf8 { file: "f".into(), at: 3 }]);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let errors = read("f", policy(&deep).as_bytes()).unwrap_err();
    assert!(matches!(&errors[..], [ManifestError::Document { .. }]), "{errors:?}");
}

#[test]
fn the_deepest_document_reaches_the_server() {
    use prost::Message as _;
    let depth = crate::document::MAX_DEPTH;
    let nested = |depth: usize| format!("{}1{}", "{a: ".repeat(depth), "}".repeat(depth));
    let located = read("f", policy(&nested(depth)).as_bytes()).unwrap();
    let request = crate::api::v1::ApplyRequest {
        resources: located.into_iter().map(|it| it.resource).collect(),
        ..Default::default()
    };
    let decoded = crate::api::v1::ApplyRequest::decode(&request.encode_to_vec()[..]);
    assert_eq!(decoded, Ok(request));
    assert!(read("f", policy(&nested(depth + 1)).as_bytes()).is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = read("f", &bytes);
    }

    #[test]
    fn any_text_in_a_name_is_read_or_refused(name in ".{0,80}") {
        let text = named(&serde_json::to_string(&name).unwrap());
        assert_eq!(read("f", text.as_bytes()).is_ok(), domain::GroupId::new(&name).is_ok());
    }
}

#[test]
fn objects_are_read_as_files_are() {
    let text = policy("{rules: {22: [1, 2.5, null]}}");
    let Any::Policy(expected) = one(&text) else { panic!("a policy") };
    let object: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(super::from_object(&object).unwrap().resource, Some(Any::Policy(expected)));
    for (spec, field, problem) in [
        (serde_json::json!({"path": "a"}), "spec.path", "must start with '/'"),
        (serde_json::json!({}), "spec", "missing field `path`"),
        (
            serde_json::json!({"path": "/a", "settings": {"mode": "Push"}}),
            "spec.settings.mode",
            "unknown variant `Push`, expected `push` or `pull`",
        ),
        (serde_json::json!({"path": "/a", "more": 1}), "spec.more", "unknown field `more`, expected one of"),
    ] {
        let object = serde_json::json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "Group", "metadata": {"name": "a"}, "spec": spec,
        });
        let error = super::from_object(&object).unwrap_err();
        assert!(error.field == field && error.problem.starts_with(problem), "{error:?}");
    }
}
