//! The parts that W1, W2 and W7 spend their time in, each alone: `cargo bench --package bench`.

use bench::sample::{self, Tree};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use domain::change::{Current, Wanted, plan};
use domain::compile::Compiled;
use domain::{AgentId, Assignment, Cursor, FleetId, GroupId, Timestamp};
use ed25519_dalek::SigningKey;
use prost::Message as _;
use wire::agent::v1::{Heartbeat, JoinRequest};

/// Agents of the fleet: more than the caches hold.
const AGENTS: u64 = 100_000;
/// Groups of the tree.
const GROUPS: usize = 1_000;

fn snapshots(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open a snapshot");
    for bytes in bench::micro::POLICY_BYTES {
        let (sealed, key) = sample::sealed(bytes).expect("a valid sample");
        group.throughput(Throughput::Bytes(sealed.len() as u64));
        group.bench_function(format!("{} KiB", bytes / 1024), |bencher| {
            bencher.iter(|| sample::open(&sealed, key));
        });
    }
    group.finish();
}

fn heartbeats(criterion: &mut Criterion) {
    let heartbeat = Heartbeat { session: 7, sequence: 300, epoch: 1, revision: 900, ..Heartbeat::default() };
    let bytes = heartbeat.encode_to_vec();
    criterion.bench_function("read a heartbeat", |bencher| bencher.iter(|| wire::heartbeat::read(&bytes)));

    let mut fleet = sample::fleet(AGENTS).expect("a valid sample");
    let ids: Vec<String> = (0..AGENTS).map(sample::agent_id).collect();
    let mut sent = 0_u64;
    criterion.bench_function("handle a heartbeat, 100,000 agents", |bencher| {
        bencher.iter(|| {
            let n = sent.wrapping_mul(61_717) % AGENTS;
            let (now, sequence) = (Timestamp(sample::START.0 + 20_000 + sent / 64), 2 + sent / AGENTS);
            sent += 1;
            let id = &ids[usize::try_from(n).expect("a small number")];
            fleet.heartbeat(now, id, sample::beat(n, sequence, None))
        });
    });
}

fn plans(criterion: &mut Criterion) {
    for (tree, name) in [(Tree::Inherits, "inherit"), (Tree::Overlays, "overlay")] {
        let catalog = sample::catalog(GROUPS, tree).expect("a valid sample");
        let (compiled, _) = Compiled::full(&catalog);
        let agents = sample::no_agents();
        let mut salt = 0;
        criterion.bench_function(
            &format!("plan a change at the root, 1,000 groups that {name}"),
            |bencher| {
                bencher.iter(|| {
                    salt += 1;
                    let current = Current { catalog: &catalog, compiled: &compiled, agents: &agents };
                    let policy = sample::root_policy(salt).expect("a valid sample");
                    plan(current, vec![Wanted::Policy(policy).into()]).expect("no rule is broken")
                });
            },
        );
    }
}

/// What identity computes for one join, without the writes to its store; and what an agent does for one trust root.
fn trust(criterion: &mut Criterion) {
    let (director, agent) = (SigningKey::from_bytes(&[1; 32]), nkeys::KeyPair::new_user());
    let request = JoinRequest {
        fleet: "default".into(),
        token: "web".into(),
        secret: vec![7; wire::join::SECRET_BYTES],
        agent: "web-1".into(),
        public_key: agent.public_key(),
        ..JoinRequest::default()
    };
    let request = wire::join::seal_request(&request, &agent).expect("the pair signs").encode_to_vec();
    let assignment = Assignment {
        fleet: FleetId::new("default").expect("an id"),
        agent: AgentId::new("web-1").expect("an id"),
        group: GroupId::new("web").expect("an id"),
        cursor: Cursor::new(1, 1),
        issued_at: sample::START,
    };
    criterion.bench_function("check a request to join and sign its assignment", |bencher| {
        bencher.iter(|| {
            let read = wire::join::open(&request).expect("a valid request");
            (read, wire::snapshot::seal_assignment(&assignment, &director))
        });
    });
    let (first, next) = sample::roots().expect("a valid sample");
    criterion.bench_function("follow a trust root, two of three keys", |bencher| {
        bencher.iter_batched(
            || (first.clone(), next.clone()),
            |(mut chain, next)| chain.follow(next).map(|()| chain),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, snapshots, heartbeats, plans, trust);
criterion_main!(benches);
