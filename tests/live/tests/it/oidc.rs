//! Logging in: with an API token, and at an OpenID provider. A real one, the real CLI, a real `musterd all`.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use futures::future::join_all;
use live::{Cli, Fleet, Process, Provider, eventually, until};
use serde_json::{Value, json};

const TREE: &str = "
{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: web}, spec: {path: /web}}
---
{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: api}, spec: {path: /web/api}}
---
{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: db}, spec: {path: /db}}
";
const ROLES: &str = "ops=operator;web=operator@/web";

/// A provider, and a control plane that believes it.
async fn start(seconds: u64) -> (tempfile::TempDir, Provider, Fleet) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let provider = Provider::start(dir.path(), seconds).await;
    let issuer = provider.issuer();
    let options = ["--oidc-issuer", &issuer, "--oidc-audience", "muster", "--oidc-role", ROLES];
    let fleet = Fleet::start_with(&options).await;
    (dir, provider, fleet)
}

/// What somebody types who has nothing but a place for contexts.
fn at(fleet: &Fleet, name: &str) -> Cli {
    fleet.cli("identity").nobody(name)
}

/// A `muster login` that waits for a person.
async fn begun(cli: &Cli, options: &[&str]) -> (Process, String) {
    let login = cli.start(&[&["login", "--oidc"], options].concat());
    let mut address = String::new();
    until("muster tells where to sign in", || {
        let log = login.log();
        // A line that is not whole yet holds half an address.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let mut words = whole.split_whitespace().filter(|word| word.starts_with("http://"));
        // With a code there are two addresses, and the second holds the code.
        let wanted = words.rfind(|word| word.contains('?'));
        address = wanted.ok_or(log.clone())?.to_owned();
        Ok(())
    })
    .await;
    (login, address)
}

async fn sign_in(provider: &Provider, cli: &Cli, name: &str, options: &[&str]) -> (i32, String) {
    let (mut login, address) = begun(cli, options).await;
    provider.person(&address, name, true).await;
    (login.wait().await.code().unwrap_or(-1), login.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_sign_in_with_a_browser_or_a_code_and_have_the_role_of_their_group() {
    let (_dir, provider, fleet) = start(3600).await;
    let (ana, bob, eve) = (at(&fleet, "ana"), at(&fleet, "bob"), at(&fleet, "eve"));
    let said = ana.run("group list").await.refused(3);
    assert!(said.contains("muster login --oidc"), "{said}");

    let (code, said) = sign_in(&provider, &ana, "ana", &[]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("as oidc:ana"), "{said}");
    let who = ana.json("whoami").await;
    assert_eq!((&who["name"], &who["role"]), (&json!("oidc:ana"), &json!("OPERATOR")), "{who}");
    // A place where no group stands is no place to be bound to.
    let (code, said) = sign_in(&provider, &bob, "bob", &["--device"]).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("oidc:bob is bound to /web, and no group stands there"), "{said}");
    let _ = ana.apply(TREE).await;

    let (code, said) = sign_in(&provider, &bob, "bob", &["--device"]).await;
    assert_eq!(code, 0, "{said}");
    let who = bob.json("whoami").await;
    assert_eq!((&who["name"], &who["group"]), (&json!("oidc:bob"), &json!("/web")), "{who}");
    let groups = bob.json("group list").await;
    let paths: Vec<&str> =
        groups["groups"].as_array().expect("a list").iter().filter_map(|it| it["path"].as_str()).collect();
    assert_eq!(paths, ["/web", "/web/api"]);
    let said = bob.run("settings set --group /db --mode pull").await.refused(4);
    assert!(said.contains("/db"), "{said}");
    let _ = bob.run("settings set --group /web/api --mode pull").await.ok();

    let (code, said) = sign_in(&provider, &eve, "eve", &[]).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("oidc:eve is in no group that has a role here"), "{said}");
    let (mut login, address) = begun(&eve, &[]).await;
    provider.person(&address, "eve", false).await;
    assert_eq!(login.wait().await.code(), Some(3));
    assert!(login.log().contains("refused the sign-in: End-User aborted"), "{}", login.log());
    assert!(!eve.contexts().exists(), "nothing is kept of who was refused");

    // Who did what stands in the audit by name, and so does who was turned away.
    let audit = fleet.cli("identity").json("audit list --last 1000").await.to_string();
    for name in ["oidc:ana", "oidc:bob", "oidc:eve"] {
        assert!(audit.contains(name), "{name}: {audit}");
    }
    assert_eq!(std::fs::metadata(ana.contexts()).expect("it is kept").mode() & 0o777, 0o600);
    let _ = ana.run("logout").await.ok();
    let _ = ana.run("whoami").await.refused(3);
    let kept = std::fs::read_to_string(ana.contexts()).expect("it is kept");
    assert!(!kept.contains("token"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_is_renewed_until_its_provider_ends_it() {
    // Tokens that end so soon are exchanged before each command.
    let (_dir, mut provider, fleet) = start(20).await;
    let ana = at(&fleet, "ana");
    let (code, said) = sign_in(&provider, &ana, "ana", &[]).await;
    assert_eq!(code, 0, "{said}");
    let kept = || std::fs::read_to_string(ana.contexts()).expect("it is kept");
    let first = kept();
    let _ = ana.run("whoami").await.ok();
    assert_ne!(kept(), first, "the token was exchanged");
    assert_eq!(std::fs::metadata(ana.contexts()).expect("it is kept").mode() & 0o777, 0o600);
    // A refresh token is good once, so that commands at the same time have to take turns.
    for output in join_all((0..4).map(|_| ana.run("whoami"))).await {
        let _ = output.ok();
    }
    provider.stop().await;
    let said = ana.run("whoami").await.refused(5);
    assert!(said.contains("cannot be reached") && said.contains(&provider.issuer()), "{said}");
    provider.restart().await;
    let said = ana.run("whoami").await.refused(3);
    assert!(said.contains("the sign-in of context default is over"), "{said}");
    assert!(said.contains("muster login default --oidc"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_and_those_of_others_let_nobody_in() {
    let (_dir, provider, fleet) = start(3600).await;
    let admin = fleet.cli("identity");
    let now = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs();
    let check = async |token: String, expected: &str| {
        let cli = admin.with_token("tried", &token);
        let said = cli.run("whoami").await.refused(3);
        assert!(said.contains(expected) && !said.contains(&token), "{expected}: {said}");
        // Who comes in is no guesser, so that the next try is looked at.
        let _ = admin.run("whoami").await.ok();
    };
    let good = provider.token(json!({})).await;
    let who = admin.with_token("good", &good).json("whoami").await;
    assert_eq!(who["name"], json!("oidc:ana"));
    for (claims, expected) in [
        (json!({"aud": "other"}), "not for the audience \"muster\""),
        (json!({"aud": ["other", "third"]}), "not for the audience"),
        (json!({"iss": "https://login.example.com"}), "from another issuer"),
        (json!({"exp": now - 61}), "the token has expired"),
        (json!({"exp": null}), "no usable claim \"exp\""),
        (json!({"nbf": now + 600}), "not good yet"),
        (json!({"sub": null}), "no usable claim \"sub\""),
        (json!({"groups": ["Ops", "admin"]}), "in no group that has a role here"),
        (json!({"groups": {"ops": true}}), "in no group that has a role here"),
    ] {
        check(provider.token(claims).await, expected).await;
    }
    // A minute is what clocks may be apart.
    let late = provider.token(json!({"exp": now - 20})).await;
    let _ = admin.with_token("late", &late).run("whoami").await.ok();
    for (header, expected) in [
        (json!({"alg": "none"}), "signed with \"none\""),
        (json!({"alg": "HS256"}), "signed with \"HS256\""),
        (json!({"typ": "logout+jwt"}), "lets nobody in"),
        (json!({"crit": ["exp"]}), "critical headers"),
    ] {
        check(provider.signed(header, json!({})).await, expected).await;
    }
    let (head, signature) = good.rsplit_once('.').expect("a token has three parts");
    let other = provider.token(json!({"sub": "eve"})).await;
    let (other, _) = other.rsplit_once('.').expect("a token has three parts");
    check(format!("{other}.{signature}"), "the signature of the token is wrong").await;
    check(format!("{head}."), "the signature of the token is wrong").await;
    check(format!("{head}.!"), "not a signed JWT").await;
    let said = admin.json("audit list --last 1000").await;
    let refused = said["entries"].as_array().expect("a list").iter();
    assert!(refused.filter(|entry| entry["phase"] == json!("REFUSED")).count() >= 9, "{said}");
    assert!(!said.to_string().contains(head), "no token stands in the audit");
}

/// Exit code and message of a call with a token.
async fn tried(admin: &Cli, name: &str, token: &str) -> (i32, String) {
    let output = admin.with_token(name, token).run("whoami").await;
    (output.code, output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_while_all_runs_and_the_provider_may_be_away() {
    let (_dir, mut provider, fleet) = start(3600).await;
    let admin = fleet.cli("identity");
    let old = provider.token(json!({})).await;
    assert_eq!(tried(&admin, "old", &old).await.0, 0);

    // Who makes up names of keys causes one fetch in ten seconds.
    let (asked, start) = (provider.asked_for_keys(), Instant::now());
    for number in 0..40 {
        let made_up = provider.signed(json!({"kid": format!("x{number}")}), json!({})).await;
        assert_ne!(tried(&admin, "made-up", &made_up).await.0, 0);
    }
    let most = 1 + usize::try_from(start.elapsed().as_secs() / 10).expect("it is not that long");
    let caused = provider.asked_for_keys() - asked;
    assert!(caused <= most, "{caused} fetches, at most {most}");

    // Its keys go on while it is away; what it alone could tell is refused soon.
    provider.stop().await;
    assert_eq!(tried(&admin, "old", &old).await.0, 0);
    let unknown = provider.signed(json!({"kid": "y"}), json!({})).await;
    let start = Instant::now();
    let said = eventually("it is told that the provider is away", async || {
        match tried(&admin, "unknown", &unknown).await {
            (5, said) if said.contains("cannot be reached") => Ok(said),
            (code, said) => Err(format!("{code}: {said}")),
        }
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(30), "{said}");

    // Another key: its tokens are good as soon as they are known, those of the old one no more.
    provider.forget_key();
    provider.restart().await;
    let new = provider.token(json!({})).await;
    eventually("a token of the new key is good", async || match tried(&admin, "new", &new).await {
        (0, _) => Ok(()),
        (code, said) => Err(format!("{code}: {said}")),
    })
    .await;
    eventually("a token of the old key is refused", async || match tried(&admin, "old", &old).await {
        (3, said) if said.contains("does not publish") => Ok(()),
        (code, said) => Err(format!("{code}: {said}")),
    })
    .await;
    assert_eq!(tried(&admin, "new", &new).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_provider_says_so() {
    let fleet = Fleet::start().await;
    let said = at(&fleet, "ana").run("login --oidc").await.refused(3);
    assert!(said.contains("the server knows no OpenID provider"), "{said}");
    let token = format!("{}.{}.{}", "e30", "e30", "e30");
    let said = fleet.cli("identity").with_token("jwt", &token).run("whoami").await.refused(3);
    assert!(said.contains("not known"), "{said}");
    let value: Value = fleet.cli("identity").json("whoami").await;
    assert_eq!(value["name"], json!("token:test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_token_is_kept_for_its_server_until_one_logs_out() {
    let fleet = Fleet::start().await;
    let made = fleet.cli("identity").json("api-token create ci --role viewer --ttl 1h").await;
    let (ci, token) = (at(&fleet, "ci"), made["token"].as_str().expect("a token"));
    let _ = ci.run_with(&["login", "lab"], "mat1_nonsense").await.refused(3);
    assert!(!ci.contexts().exists(), "what lets nobody in is not kept");
    let _ = ci.run_with(&["login", "lab"], token).await.ok();
    assert_eq!(ci.json("whoami").await["name"], json!("token:ci"));
    assert!(ci.run("context list").await.ok().starts_with("* lab  https://127.0.0.1:"));
    assert_eq!(std::fs::metadata(ci.contexts()).expect("it is kept").mode() & 0o777, 0o600);
    let _ = ci.run("logout").await.ok();
    let said = ci.run("whoami").await.refused(3);
    assert!(said.contains("this takes a credential"), "{said}");
}
