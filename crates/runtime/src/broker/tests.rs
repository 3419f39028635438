//! A real server in the hands of an operator that was made here.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use domain::{FleetId, GroupId, Timestamp};
use futures::StreamExt as _;
use nkeys::KeyPair;
use wire::access::{Account, Permissions, Role};
use wire::jwt::{User, Validity};

use super::*;
use crate::live::soon;
use crate::nats::{CONTENT, ConnectError, Connection, DESIRED, EVENTS, IDENTITY, Nats, POLICY};
use crate::nats_server::{NatsServer, Setup, find};

struct Rig {
    dir: tempfile::TempDir,
    fleet: FleetId,
    server: NatsServer,
}

impl Rig {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fleet = FleetId::new("main").unwrap();
        let broker = dir.path().join("broker");
        assert_eq!(init(&broker, &fleet).unwrap(), Made { operator: true, fleet: true });
        let setup = Setup::new(find(None).await.unwrap(), dir.path().join("nats"));
        let server = NatsServer::start(setup.with_operator(&broker).unwrap()).await.unwrap();
        Self { dir, fleet, server }
    }

    fn role(&self, role: Role) -> RoleFiles {
        let dir = self.dir.path().join("broker/fleets").join(self.fleet.as_str());
        RoleFiles::load(&dir, role).unwrap()
    }

    async fn service(&self, role: Role) -> Nats {
        let connection = Connection::service(vec![self.server.url()], role.name());
        Nats::connect(&connection.with_login(role, self.role(role).fleet)).await.unwrap()
    }

    async fn agent(&self, id: &str, group: &str) -> Client {
        let identity = self.role(Role::Identity);
        let key = KeyPair::new_user();
        let user = User {
            key: key.public_key(),
            name: id.to_owned(),
            account: identity.keys.agents.clone(),
            group: Some(GroupId::new(group).unwrap()),
            permissions: None,
        };
        let claims =
            user.sign(&identity.signers.agent.unwrap(), Validity::from(crate::clock::now())).unwrap();
        let key = Arc::new(key);
        let sign =
            move |nonce: Vec<u8>| std::future::ready(key.sign(&nonce).map_err(async_nats::AuthError::new));
        let options =
            ConnectOptions::with_jwt(claims, sign).custom_inbox_prefix(format!("_INBOX_agent.{id}"));
        options.connect(self.server.url()).await.unwrap()
    }

    async fn streams(&self) {
        let makers = [
            (Role::Policy, vec![POLICY, DESIRED]),
            (Role::Identity, vec![IDENTITY]),
            (Role::Content, vec![CONTENT]),
            (Role::Presence, vec![EVENTS]),
        ];
        for (role, specs) in makers {
            let nats = self.service(role).await;
            for spec in specs {
                nats.ensure_stream(&spec, 1).await.unwrap();
            }
        }
    }
}

/// What JetStream answers, or `None` if nobody does.
async fn ask(client: &Client, subject: &str) -> Option<async_nats::Message> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply(subject.to_owned(), inbox, Bytes::new()).await.unwrap();
    tokio::time::timeout(Duration::from_millis(500), replies.next()).await.ok().flatten()
}

#[tokio::test]
async fn an_agent_reads_its_own_and_reaches_nothing_by_the_brokers_answers() {
    let rig = Rig::start().await;
    rig.streams().await;
    let policy = rig.service(Role::Policy).await;
    let head = |group: &str| wire::subject::desired_group(&GroupId::new(group).unwrap());
    let agent = rig.agent("web-1", "web").await;
    let mut notified = agent.subscribe("notify.group.web").await.unwrap();
    agent.flush().await.unwrap();
    for group in ["web", "db"] {
        let message = (crate::nats::Headers::new(), Bytes::from(group.to_owned()));
        policy.publish_cas(DESIRED.name, &head(group), message, crate::nats::Expect::Any).await.unwrap();
    }
    assert_eq!(soon(notified.next()).await.unwrap().payload, "web");
    let own = "$JS.API.DIRECT.GET.DESIRED.desired.group.web";
    assert_eq!(ask(&agent, own).await.unwrap().payload, "web");
    assert!(ask(&agent, "$JS.API.DIRECT.GET.DESIRED.desired.group.db").await.is_none());

    let before = policy.stream_state(POLICY.name).await.unwrap().unwrap();
    let absent = format!("$JS.API.DIRECT.GET.CONTENT.content.chunk.{}", "0".repeat(64));
    for (from, to) in [
        (own, "desired.group.db"),
        (own, "store.group.web"),
        (own, "identity.agent.web-1"),
        (&absent, "$JS.API.STREAM.PURGE.POLICY"),
        (&absent, "$JS.API.STREAM.DELETE.POLICY"),
        (&absent, "$JS.API.STREAM.DELETE.DESIRED"),
    ] {
        agent.publish_with_reply(from.to_owned(), to, Bytes::new()).await.unwrap();
    }
    // The same connection's next answer comes after all of these.
    assert_eq!(ask(&agent, own).await.unwrap().payload, "web");
    assert_eq!(policy.stream_state(POLICY.name).await.unwrap().unwrap(), before);
    let stored = policy.direct_get_last(DESIRED.name, &head("db")).await.unwrap().unwrap();
    assert_eq!(stored.payload, "db");
}

#[tokio::test]
async fn nobody_gets_in_without_a_login() {
    let rig = Rig::start().await;
    let mut connection = Connection::service(vec![rig.server.url()], "nobody");
    connection.patience = Duration::ZERO;
    let refused = Nats::connect(&connection).await.err().unwrap();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
    let other = tempfile::tempdir().unwrap();
    init(&other.path().join("b"), &rig.fleet).unwrap();
    let foreign = RoleFiles::load(&other.path().join("b/fleets/main"), Role::Policy).unwrap();
    let refused = Nats::connect(&connection.with_login(Role::Policy, foreign.fleet)).await.err().unwrap();
    assert!(refused.to_string().contains("--nats-creds"), "{refused}");
}

#[test]
fn what_was_made_is_never_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = dir.path().join("broker");
    let [a, b] = ["a", "b"].map(|id| FleetId::new(id).unwrap());
    assert_eq!(init(&broker, &a).unwrap(), Made { operator: true, fleet: true });
    let all = |dir: &Path| {
        let mut files = BTreeMap::new();
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(files.insert(path.clone(), std::fs::read(path).unwrap())),
                }
            }
        }
        files
    };
    let before = all(&broker);
    assert_eq!(init(&broker, &a).unwrap(), Made { operator: false, fleet: false });
    assert_eq!(all(&broker), before);
    assert_eq!(init(&broker, &b).unwrap(), Made { operator: false, fleet: true });
    let after = all(&broker);
    for (path, bytes) in &before {
        assert!(path.ends_with("nats.conf") || after[path] == *bytes, "{}", path.display());
    }
    for path in after.keys().filter(|path| path.extension().is_some_and(|e| e == "nk" || e == "creds")) {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
    }
}

#[test]
fn processes_that_start_together_share_what_one_of_them_made() {
    let dir = tempfile::tempdir().unwrap();
    let broker = dir.path().join("broker");
    let fleet = FleetId::new("main").unwrap();
    let made: Vec<Made> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| init(&broker, &fleet).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| made.operator).count(), 1);
    assert_eq!(made.iter().filter(|made| made.fleet).count(), 1);
}

#[test]
fn a_directory_that_lacks_something_is_refused_and_a_crash_leaves_none() {
    let dir = tempfile::tempdir().unwrap();
    let broker = dir.path().join("broker");
    let fleet = FleetId::new("main").unwrap();
    init(&broker, &fleet).unwrap();
    let made = broker.join("fleets/main");
    for name in
        ["accounts.json", "keys/agents.nk", "roles/identity/system.creds", "roles/policy/join-signing.nk"]
    {
        let (path, aside) = (made.join(name), dir.path().join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        let error = init(&broker, &fleet).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("backup"), "{error}");
        assert!(!path.exists(), "nothing is put in its place");
        std::fs::rename(&aside, &path).unwrap();
    }
    init(&broker, &fleet).unwrap();
    // A crash while another fleet was made: its draft is no fleet, and the next try makes it.
    let draft = broker.join("fleets/other.draft");
    std::fs::create_dir_all(draft.join("keys")).unwrap();
    std::fs::write(draft.join("keys/account.nk"), "half").unwrap();
    init(&broker, &fleet).unwrap();
    let other = FleetId::new("other").unwrap();
    assert_eq!(init(&broker, &other).unwrap(), Made { operator: false, fleet: true });
    assert!(!draft.exists());
}

#[tokio::test]
async fn accounts_that_were_changed_stay_so_over_restarts() {
    let mut rig = Rig::start().await;
    let identity = rig.role(Role::Identity);
    let agent = rig.agent("web-1", "web").await;
    drop(agent);
    let signing = identity.signers.account.clone().unwrap();
    // No service's user, but one that the accounts know: all that presence has is void from now on.
    let presence = rig.role(Role::Presence).agents.unwrap();
    let now = crate::clock::now();
    let revoked = BTreeMap::from([(presence.public_key(), Timestamp(now.0 + 1_000))]);
    let [_, (_, agents)] = identity.keys.claims(&signing, revoked, Timestamp(now.0 + 1_000)).unwrap();
    let mut system = Connection::service(vec![rig.server.url()], "system");
    system = system.with_login(Role::Identity, identity.system.unwrap());
    let system = Nats::connect(&system).await.unwrap();
    let (headers, patience) = (crate::nats::Headers::new(), Duration::from_secs(5));
    let answer = system.request(&wire::subject::claims(), headers, agents.into(), patience).await.unwrap();
    wire::jwt::read_claims_answer(&answer.payload).unwrap();
    let mut connection = Connection::service(vec![rig.server.url()], "presence");
    connection = connection.with_login(Role::Presence, presence);
    connection.patience = Duration::ZERO;
    assert!(matches!(Nats::connect(&connection).await, Err(ConnectError::Refused { .. })));
    rig.server.kill().await.unwrap();
    rig.server.start_again().await.unwrap();
    connection.servers = vec![rig.server.url()];
    assert!(matches!(Nats::connect(&connection).await, Err(ConnectError::Refused { .. })));
}

#[tokio::test]
async fn a_minted_user_may_do_what_it_was_minted_for() {
    let rig = Rig::start().await;
    let all = Permissions { publish: vec![">".to_owned()], subscribe: vec![">".to_owned()] };
    let file = mint(&rig.dir.path().join("broker"), &rig.fleet, Account::Fleet, all).unwrap();
    let client = ConnectOptions::with_credentials(&file).unwrap().connect(rig.server.url()).await.unwrap();
    let mut heard = client.subscribe("store.>").await.unwrap();
    client.publish("store.group.x", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(soon(heard.next()).await.unwrap().payload, "x");
}
