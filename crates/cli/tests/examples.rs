//! `examples/` is accepted as one change by the rules of the domain, and its lock holds.

use std::collections::BTreeMap;
use std::path::Path;

use domain::catalog::{Catalog, Channel, Group, Kind, Labels, Locks, Policy};
use domain::change::{Current, Operation, Plan, Refusal, Wanted, plan};
use domain::compile::Compiled;
use domain::content::{ChannelName, ContentPointer, ContentRevision, StageName};
use domain::document::{Document, Pointer};
use domain::schema::Schema;
use domain::{Mode, SettingsOverlay};
use wire::api::v1;
use wire::api::v1::content_reference::Which;
use wire::api::v1::resource::Resource;
use wire::document::from_struct;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

/// The channel that `examples/content/` is pushed to before the manifests are applied.
fn pushed() -> Operation {
    Wanted::Channel(Channel::new(ChannelName::new("definitions/ips").expect("a name"))).into()
}

/// Everything in `examples/` and in one more manifest.
fn wanted(extra: &str) -> Vec<Operation> {
    let mut texts = vec![extra.to_owned()];
    for entry in Path::new(FOLDER).read_dir().expect("examples/ is there") {
        let path = entry.expect("examples/ can be listed").path();
        if path.is_dir() {
            continue;
        }
        texts.push(std::fs::read_to_string(path).expect("examples are texts"));
    }
    let read =
        |text: &String| wire::manifest::read("examples", text.as_bytes()).expect("examples are manifests");
    texts.iter().flat_map(read).map(|it| operation(it.resource.resource.expect("it is set"))).collect()
}

fn operation(resource: Resource) -> Operation {
    let document = |document| Document::new(from_struct(document).expect("JSON")).expect("a document");
    let wanted = match resource {
        Resource::Group(it) => Wanted::Group(group(&it)),
        Resource::Kind(it) => Wanted::Kind(Kind {
            name: it.name.parse().expect("a name"),
            schema: Schema::new(from_struct(it.schema.expect("set")).expect("JSON")).expect("a schema"),
            manager: None,
        }),
        Resource::Policy(it) => {
            let locks = it.locks.iter().map(|lock| Pointer::new(lock).expect("a pointer"));
            Wanted::Policy(Policy {
                name: it.name.parse().expect("a name"),
                kind: it.kind.parse().expect("a name"),
                document: document(it.document.expect("set")),
                locks: Locks::new(locks.collect()).expect("few locks"),
                generation: 0,
                manager: None,
            })
        }
        Resource::ContentRelease(_) => {
            panic!("examples/ hold no content: whoever runs them pushes their own")
        }
        Resource::Token(_) => panic!("examples/ holds no token: whoever runs them makes their own"),
    };
    wanted.into()
}

fn group(message: &v1::Group) -> Group {
    let settings = message.settings.unwrap_or_default();
    let span = |length: Option<prost_types::Duration>| length.and_then(|it| wire::time::read_duration(&it));
    Group {
        id: message.name.parse().expect("a name"),
        path: message.path.parse().expect("a path"),
        settings: SettingsOverlay {
            mode: settings
                .mode
                .map(|_| if settings.mode() == v1::Mode::Push { Mode::Push } else { Mode::Pull }),
            heartbeat_interval: span(settings.heartbeat_interval),
            offline_after: span(settings.offline_after),
            content_spread: span(settings.content_spread),
            content_rate_limit: settings.content_rate_limit,
        },
        policies: message.policies.iter().map(|name| name.parse().expect("a name")).collect(),
        content: message.content.iter().map(content).collect(),
        labels: Labels::new(message.labels.clone().into_iter().collect()).expect("labels"),
        manager: None,
    }
}

fn content(reference: &v1::ContentReference) -> (ChannelName, ContentPointer) {
    let pointer = match reference.which.clone().expect("set") {
        Which::Stage(stage) => ContentPointer::Stage(StageName::new(stage).expect("a name")),
        Which::Revision(number) => ContentPointer::Revision(ContentRevision(number)),
    };
    (ChannelName::new(&reference.channel).expect("a name"), pointer)
}

fn planned(extra: &str) -> Result<Plan, Refusal> {
    let (catalog, compiled, agents) = (Catalog::new(), Compiled::default(), BTreeMap::new());
    plan(
        Current { catalog: &catalog, compiled: &compiled, agents: &agents },
        [vec![pushed()], wanted(extra)].concat(),
    )
}

#[test]
fn the_examples_fit_together() {
    let plan = planned("").expect("the examples are accepted");
    assert_eq!(plan.touched.len(), 4, "every group of the examples gets a snapshot");
}

#[test]
fn the_lock_of_the_examples_holds() {
    let breach = "
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {name: opens-ssh}
spec: {kind: firewall, document: {rules: {ssh: allow}}}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: servers-db}
spec: {path: /servers/db, policies: [opens-ssh]}
";
    let refusal = planned(breach).expect_err("ssh is locked for all servers");
    assert_eq!(
        refusal.to_string(),
        "policy opens-ssh of group /servers/db may not set \"/rules/ssh\" (firewall): policy firewall-servers of \
         group /servers locks it"
    );
}
