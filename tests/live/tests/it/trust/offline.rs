//! Machines that join by a request and a bundle that are carried by hand.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use live::{AgentProcess, Fleet, Process};
use serde_json::json;

use crate::seed;

/// A machine that reaches nobody.
struct Machine<'a> {
    fleet: &'a Fleet,
    agent: AgentProcess,
}

impl<'a> Machine<'a> {
    fn new(fleet: &'a Fleet, id: &str, token: &str) -> Self {
        Self { fleet, agent: AgentProcess::new(fleet.dir(), id, token) }
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.fleet.dir().join(format!("{}.{ending}", self.agent.id))
    }

    /// Runs a command of the agent: whether it went well, and all it said.
    async fn does(&self, words: &[&str]) -> (bool, String) {
        let state = self.agent.state.to_string_lossy().into_owned();
        let name = format!("{}-{}", self.agent.id, words[0]);
        let args = [words, &["--state-dir", &state]].concat();
        let mut process = Process::start(self.fleet.dir(), &name, "muster-agent", &args, &[]);
        (process.wait().await.success(), process.log())
    }

    /// Writes its request.
    async fn asks(&self, token: &str, more: &[&str]) {
        let out = self.file("request").to_string_lossy().into_owned();
        let words = [&["request", "--join", token, "--id", &self.agent.id, "--out", &out], more].concat();
        let (done, said) = self.does(&words).await;
        assert!(done, "{said}");
    }

    /// Makes a bundle of its request.
    async fn is_enrolled(&self, cli: &live::Cli, more: &str) -> live::Output {
        let (request, bundle) = (self.file("request"), self.file("bundle"));
        let line =
            format!("agent enrol --request {} --bundle {} {more}", request.display(), bundle.display());
        cli.run(&line).await
    }

    /// Joins with a bundle.
    async fn joins(&self, bundle: &std::path::Path) -> (bool, String) {
        self.does(&["join", "--bundle", &bundle.to_string_lossy()]).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_by_files_that_are_carried_and_its_key_stays_where_it_is() {
    let mut fleet = Fleet::start().await;
    let cli = fleet.cli("identity");
    seed::groups(&cli).await;
    let made =
        cli.json("token create --group /push --rule /push/child:site=north --uses 3 --name carried").await;
    let token = made["token"].as_str().expect("a token").to_owned();
    let machine = Machine::new(&fleet, "web-9", &token);
    machine.asks(&token, &["--label", "site=north"]).await;
    let key = std::fs::metadata(machine.agent.state.join("agent.key")).expect("it has a key").permissions();
    assert_eq!(key.mode() & 0o777, 0o600);
    let request = std::fs::read_to_string(machine.file("request")).expect("a request");
    let read = wire::offline::open_request(&request).expect("it is signed");
    assert!(read.request.secret.is_empty() && read.agent.as_str() == "web-9");
    let seed = std::fs::read_to_string(machine.agent.state.join("agent.key")).expect("it has a key");
    assert!(!request.contains(seed.trim()));

    // The same rules and uses as if it had asked itself; once more gives another bundle and costs nothing.
    for _ in 0..2 {
        let said = machine.is_enrolled(&cli, "").await.ok();
        assert!(said.contains("web-9  in /push/child, by rule 1 of token carried"), "{said}");
    }
    assert_eq!(cli.json("token list").await["tokens"][0]["used"], 1);

    // It asks nobody.
    let bundle = machine.file("bundle");
    let Machine { mut agent, .. } = machine;
    fleet.nats.kill().await.expect("the broker can be killed");
    let machine = Machine { fleet: &fleet, agent };
    let (done, said) = machine.joins(&bundle).await;
    assert!(done && said.contains("agent web-9 is in the fleet default"), "{said}");
    let (_, said) = machine.does(&["request", "--join", &token]).await;
    assert!(said.contains("this machine is in already, as agent web-9"), "{said}");
    Machine { agent, .. } = machine;
    fleet.nats.start_again().await.expect("the broker starts again");
    agent.start();
    agent.reaches("app", "/extra", &json!("child")).await;
    let _ = fleet.shows("web-9", "it is there", |shown| shown["state"] == "ONLINE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_of_others_tampered_ones_and_old_ones_are_refused_with_the_way_out() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("identity");
    seed::groups(&cli).await;
    let token = fleet.token("/push", 2).await;
    let (one, two) = (Machine::new(&fleet, "one", &token), Machine::new(&fleet, "two", &token));
    let refuses = async |machine: &Machine<'_>, bundle: &std::path::Path, expected: &str| {
        let (done, said) = machine.joins(bundle).await;
        assert!(!done && said.contains(expected), "{said}");
        assert!(!machine.agent.state.join("identity.json").exists(), "it has not joined");
    };
    one.asks(&token, &[]).await;
    let _ = one.is_enrolled(&cli, "").await.ok();
    refuses(&two, &one.file("bundle"), "this machine has written no request").await;
    two.asks(&token, &[]).await;
    refuses(&two, &one.file("bundle"), "each machine needs the bundle of its own request").await;

    let good = std::fs::read_to_string(one.file("bundle")).expect("a bundle");
    let (bad, middle) = (one.file("bad"), good.len() / 2);
    let other = if good.as_bytes()[middle] == b'A' { "B" } else { "A" };
    std::fs::write(&bad, format!("{}{other}{}", &good[..middle], &good[middle + 1..]))
        .expect("it can be written");
    refuses(&one, &bad, "the bundle is damaged or cut").await;
    std::fs::write(&bad, &good[..middle]).expect("it can be written");
    refuses(&one, &bad, "the bundle is damaged or cut").await;
    std::fs::write(&bad, "mjt1_abc").expect("it can be written");
    refuses(&one, &bad, "a bundle starts with \"mjb1_\"").await;

    let made = two.is_enrolled(&cli, "--ttl 1s -o json").await.ok();
    let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
    let pinned = wire::join::JoinToken::decode(&token).expect("a token").trust_root;
    let bundle = wire::offline::open_bundle(made["bundle"].as_str().expect("a bundle"), &pinned);
    let over = bundle.expect("it is signed").expires_at;
    live::until("the bundle expires", || {
        (runtime::clock::now() > over).then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    refuses(&two, &two.file("bundle"), "let somebody make another with `muster agent enrol`").await;

    // Another fleet's roots lead nowhere.
    let elsewhere = Fleet::start().await;
    let foreign = Machine::new(&fleet, "three", &token);
    foreign.asks(&elsewhere.token("/", 1).await, &[]).await;
    refuses(&foreign, &one.file("bundle"), "is not from the fleet of the join token").await;
    let said = foreign.is_enrolled(&cli, "").await.refused(3);
    assert!(said.contains("trust root that this fleet does not have"), "{said}");

    let (done, said) = one.joins(&one.file("bundle")).await;
    assert!(done, "{said}");
    let _ = two.is_enrolled(&cli, "").await.ok();
    let (done, said) = two.joins(&two.file("bundle")).await;
    assert!(done, "{said}");
    let three = Machine::new(&fleet, "four", &token);
    three.asks(&token, &[]).await;
    let said = three.is_enrolled(&cli, "").await.refused(3);
    assert!(said.contains("no uses left"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_makes_a_bundle_reaches_the_token_and_approval_counts_for_files_as_well() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("identity");
    seed::groups(&cli).await;
    let made = cli.json("token create --group /push --approval").await;
    let token = made["token"].as_str().expect("a token").to_owned();
    let machine = Machine::new(&fleet, "web-9", &token);
    machine.asks(&token, &[]).await;
    let bound = cli.json("api-token create bound --role enroller --group /pull").await;
    let bound = cli.with_token("bound", bound["token"].as_str().expect("a token"));
    let said = machine.is_enrolled(&bound, "").await.refused(3);
    assert!(said.contains("the join token is not known"), "{said}");
    let enroller = cli.json("api-token create enroller --role enroller").await;
    let enroller = cli.with_token("enroller", enroller["token"].as_str().expect("a token"));
    let said = machine.is_enrolled(&enroller, "").await.refused(3);
    assert!(said.contains("agent web-9 waits for approval"), "{said}");
    let _ = enroller.run("agent approve web-9").await.ok();
    let said = machine.is_enrolled(&bound, "").await.refused(4);
    assert!(said.contains("there is no agent \"web-9\""), "{said}");
    let _ = machine.is_enrolled(&enroller, "").await.ok();
    let (done, said) = machine.joins(&machine.file("bundle")).await;
    assert!(done, "{said}");
    let audited = cli.run("audit list").await.ok();
    assert!(audited.contains("EnrolOffline") && audited.contains("agent=web-9"), "{audited}");
}
