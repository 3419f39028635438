//! Every subject of the table, every role, twenty agents: who may publish and who may subscribe.
//!
//! What should be allowed is read from the table here a second time, by other means than those that make the permissions.

use live::{Bare, Creds, Fleet};
use nkeys::KeyPair;
use runtime::broker::RoleFiles;
use wire::access::{Account, Party, Place, ROWS, Role, Row, STREAMS};

use super::{Member, join};
use crate::seed;

const AGENTS: usize = 20;

/// Someone who is connected.
struct User {
    name: String,
    role: Role,
    account: Account,
    member: Option<Member>,
    creds: Creds,
}

/// What stands in the places of a subject.
#[derive(Clone)]
struct Filled {
    subject: String,
    agent: Option<String>,
    group: Option<String>,
    key: Option<String>,
    service: Option<&'static str>,
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_t13_everyone_uses_its_own_subjects_and_no_others() {
    // What presence tries here says of every agent that it floods.
    let fleet = Fleet::start_with(&["--agent-flood-ban", "0s"]).await;
    seed::groups(&fleet.cli("policy")).await;
    let members = members(&fleet).await;
    let (door, foreign) = (members[0].door.clone(), members[1].door.clone());
    let keys = [&door, &foreign].map(|creds| creds.key.public_key());
    let mut users = users(&fleet, &members);
    users.push(User {
        name: "door".to_owned(),
        role: Role::Join,
        account: Account::Agents,
        member: Some(members[0].clone()),
        creds: door.clone(),
    });
    let (mut checked, mut allowed, mut wrong) = (0, 0, Vec::new());
    for user in &users {
        // Each when it is its turn: the broker closes connections that do not answer its pings.
        let mut bare = Bare::connect(&fleet.nats.url(), Some(&user.creds)).await.expect("it is let in");
        let attempts: Vec<_> = ROWS
            .iter()
            .flat_map(|row| fill(row, &members, &keys).into_iter().map(move |filled| (row, filled)))
            .flat_map(|(row, filled)| [(row, filled.clone(), true), (row, filled, false)])
            .collect();
        let operations: Vec<_> =
            attempts.iter().map(|(row, filled, publish)| operation(row, &filled.subject, *publish)).collect();
        let said = bare.carry_out_all(&operations).await;
        for ((row, filled, publish), said) in attempts.iter().zip(said) {
            let subject = &filled.subject;
            assert!(said.errors.is_empty() || said.is_refusal(), "{subject}: {said:?}");
            let (found, expected) = (!said.is_refusal(), may(user, row, filled, *publish));
            checked += 1;
            allowed += usize::from(found);
            if found != expected {
                let verb = if *publish { "publish" } else { "subscribe" };
                let may = if found { "may" } else { "may not" };
                wrong.push(format!("{} in {} {may} {verb} {subject}", user.name, user.account.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
    // Each agent: heartbeat, enrol, its head, its assignment, roots, four kinds of content; inbox and two notifications.
    assert!(checked > 10_000 && allowed > AGENTS * 12, "{checked} checked, {allowed} allowed");
}

async fn members(fleet: &Fleet) -> Vec<Member> {
    let mut members = Vec::new();
    for (at, group) in ["/push", "/pull", "/push/child"].into_iter().cycle().take(AGENTS).enumerate() {
        let token = fleet.token(group, 1).await;
        members.push(join(&token, &KeyPair::new_user(), &format!("agent-{at}")).await.expect("it is let in"));
    }
    members
}

fn users(fleet: &Fleet, members: &[Member]) -> Vec<User> {
    let mut users = Vec::new();
    for member in members {
        let (name, creds) = (member.id.to_string(), member.user.clone());
        users.push(User {
            name,
            role: Role::Agent,
            account: Account::Agents,
            member: Some(member.clone()),
            creds,
        });
    }
    for role in Role::SERVICES {
        let _readable = RoleFiles::load(&fleet.creds(), role).expect("a role has its files");
        for account in Account::ALL.into_iter().filter(|account| role.is_in(*account)) {
            let file =
                fleet.creds().join("roles").join(role.name()).join(format!("{}.creds", account.name()));
            let creds = Creds::read(&std::fs::read_to_string(file).expect("credentials"));
            users.push(User { name: role.name().to_owned(), role, account, member: None, creds });
        }
    }
    users
}

/// The row's subject for every agent, or every group, or once.
fn fill(row: &Row, members: &[Member], keys: &[String; 2]) -> Vec<Filled> {
    let plain = |agent: Option<String>, group: Option<String>, key: Option<String>, service| {
        let digest = domain::Digest::of(b"x").to_string();
        let mut subject = row.subject.to_owned();
        for (place, value) in [
            ("<agent>", agent.as_deref()),
            ("<group>", group.as_deref()),
            ("<key>", key.as_deref()),
            ("<service>", service),
            ("<channel>", Some("a.b")),
            ("<number>", Some("3")),
            ("<kind>", Some("k")),
            ("<policy>", Some("p")),
            ("<token>", Some("t")),
            ("<name>", Some("n")),
            (".>", Some(".x")),
        ] {
            subject = subject.replace(place, value.unwrap_or("unfilled"));
        }
        for place in ["<manifest>", "<chunk>", "<from>", "<to>"] {
            subject = subject.replace(place, &digest);
        }
        assert!(!subject.contains(['<', '>']) && !subject.contains("unfilled"), "{subject}");
        Filled { subject, agent, group, key, service }
    };
    if row.subject.contains("<agent>") {
        return members.iter().map(|member| plain(Some(member.id.to_string()), None, None, None)).collect();
    }
    if row.subject.contains("<group>") {
        let groups = ["push", "pull", "child", "root"];
        return groups.map(|group| plain(None, Some(group.to_owned()), None, None)).into();
    }
    if row.subject.contains("<key>") {
        return keys.iter().map(|key| plain(None, None, Some(key.clone()), None)).collect();
    }
    if row.subject.contains("<service>") {
        return Role::SERVICES.map(|role| plain(None, None, None, Some(role.name()))).into();
    }
    vec![plain(None, None, None, None)]
}

/// What the table says.
fn may(user: &User, row: &Row, filled: &Filled, publish: bool) -> bool {
    let here = match row.place {
        Place::Fleet => user.account == Account::Fleet,
        Place::Agents => user.account == Account::Agents,
        Place::System => user.account == Account::System,
        Place::Each => true,
        // Agents reach it from theirs; in the fleet's own account nobody needs it but as a part of reading a stream.
        Place::Shared => user.account == Account::Agents || reads_through(user, filled, publish),
    };
    if !here {
        return false;
    }
    if row.place == Place::Shared && user.account == Account::Fleet {
        return true;
    }
    // What a stream keeps is read from the stream.
    if !publish && STREAMS.iter().any(|stream| row.subject.starts_with(stream.subjects.trim_end_matches('>')))
    {
        return false;
    }
    let id = user.member.as_ref().map(|member| member.id.as_str());
    let parties = if publish { row.publishes } else { row.subscribes };
    parties.iter().any(|party| match party {
        Party::Service(role) => user.role == *role,
        Party::TheService => filled.service == Some(user.role.name()),
        Party::TheAgent => user.role == Role::Agent && filled.agent.as_deref() == id,
        Party::Group => {
            let own = user.member.as_ref().map(|member| member.group.as_str());
            user.role == Role::Agent && filled.group.as_deref() == own
        }
        Party::Agents => user.role == Role::Agent,
        Party::Joining => {
            let own = user.member.as_ref().map(|member| member.door.key.public_key());
            user.role == Role::Join && (filled.key.is_none() || filled.key == own)
        }
        Party::Broker => false,
    })
}

/// Whether a service reads the stream that this asks.
fn reads_through(user: &User, filled: &Filled, publish: bool) -> bool {
    let asks = |name: &str| filled.subject.starts_with(&format!("$JS.API.DIRECT.GET.{name}."));
    publish && STREAMS.iter().any(|stream| asks(stream.name) && stream.reads.contains(&user.role))
}

/// What a user tries. What is published is nothing, to where it harms nothing: empty entries are refused by whoever reads
/// them, and requests without a reply subject are answered to nobody.
fn operation(row: &Row, subject: &str, publish: bool) -> Vec<u8> {
    let is_stored = STREAMS.iter().any(|stream| subject.starts_with(stream.subjects.trim_end_matches('>')));
    let queue = row.queue.unwrap_or_default();
    let text = match publish {
        // The broker looks at permissions before it looks at what is published: a batch that is never committed is not
        // stored.
        true if is_stored => {
            let headers = "NATS/1.0\r\nNats-Batch-Id: never-committed\r\nNats-Batch-Sequence: 1\r\n\r\n";
            format!("HPUB {subject} {0} {0}\r\n{headers}\r\n", headers.len())
        }
        true => format!("PUB {subject} 0\r\n\r\n"),
        false => format!("SUB {subject} {queue} 1\r\nUNSUB 1\r\n"),
    };
    text.into_bytes()
}
