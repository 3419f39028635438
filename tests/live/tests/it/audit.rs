//! The audit: what is entered, that nothing is changed without it, and that whoever tampers with it is found out.

use async_nats::jetstream;
use live::{Cli, Fleet};
use serde_json::Value;
use wire::access::Account;

const GROUP: &str =
    "{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: web}, spec: {path: /web}}";

async fn entries(admin: &Cli) -> Vec<Value> {
    let listed = admin.json("audit list --last 1000").await;
    listed["entries"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_refusals_are_entered_with_who_what_and_what_came_of_it() {
    let fleet = Fleet::with_replicas(1).await;
    let (admin, policy) = (fleet.cli("identity"), fleet.cli("policy"));
    let _ = policy.apply(GROUP).await;
    let made = admin.json("api-token create eve --role viewer --ttl 1h").await;
    let eve = policy.with_token("eve", made["token"].as_str().expect("a token"));
    let _ = eve.run("group list").await.ok();
    let _ = eve.run_with(&["apply", "-f", "-"], GROUP).await.refused(3);
    let _ = policy.with_token("bad", "mat1_nonsense").run("group list").await.refused(3);
    let _ = policy.run("group delete /nowhere --yes").await.refused(4);
    let told: Vec<String> = entries(&admin).await.iter().map(told).collect();
    assert_eq!(
        told,
        [
            "ASKED token:test PolicyService/Apply name=web path=/web",
            "ENDED token:test PolicyService/Apply of 1 code 0 stored",
            "ASKED token:test AccessService/CreateApiToken name=eve",
            "ENDED token:test AccessService/CreateApiToken of 3 code 0",
            "REFUSED token:eve PolicyService/Apply code 7",
            "REFUSED  PolicyService/ListGroups code 16",
            "ASKED token:test PolicyService/DeleteGroup group=/nowhere",
            "ENDED token:test PolicyService/DeleteGroup of 7 code 5",
        ]
    );
    let only = admin.json("audit list --by token:eve").await;
    assert_eq!(only["entries"].as_array().map(Vec::len), Some(1));
    let _ = eve.run("audit list").await.refused(3);
}

/// An entry in a line.
fn told(entry: &Value) -> String {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let method = text("method").replace("muster.api.v1.", "");
    let names = entry["targets"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    let mut line = format!("{} {} {method}", text("phase"), text("actor"));
    match text("phase").as_str() {
        "ASKED" => line += &format!(" {}", names.join(" ")),
        "ENDED" => line += &format!(" of {} code {}", text("asked"), entry["code"].as_u64().unwrap_or(0)),
        _ => line += &format!(" code {}", entry["code"].as_u64().unwrap_or(0)),
    }
    if !text("revision").is_empty() {
        line += " stored";
    }
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_tampers_with_the_audit_is_found_out() {
    let fleet = Fleet::start().await;
    let admin = fleet.cli("identity");
    let _ = admin.apply(GROUP).await;
    for mode in ["push", "pull", "push"] {
        let _ = admin.run(&format!("settings set --group /web --mode {mode}")).await.ok();
    }
    let said = admin.run("audit verify").await.ok();
    assert!(said.starts_with("8 entries follow from each other"), "{said}");
    let noted = said.lines().last().expect("it tells the last entry").to_owned();
    let _ = admin.run(&format!("audit verify --noted {noted}")).await.ok();

    // An export verifies without a server; one with any line changed, moved or left out does not.
    let export = admin.run("audit export").await.ok();
    let lines: Vec<&str> = export.lines().collect();
    assert_eq!(lines.len(), 8);
    let file = fleet.dir().join("audit.jsonl");
    let verify = format!("audit verify --file {}", file.display());
    std::fs::write(&file, &export).expect("a file can be written");
    let _ = admin.run(&verify).await.ok();
    for at in 1..7 {
        let mut removed = lines.clone();
        removed.remove(at);
        let mut swapped = lines.clone();
        swapped.swap(at, at - 1);
        let stored = |line: &str| {
            let json: Value = serde_json::from_str(line).expect("lines are JSON");
            json["stored"].as_str().expect("entries have their bytes").to_owned()
        };
        let forged = lines[at].replace(&stored(lines[at]), &stored(lines[at - 1]));
        let mut changed = lines.clone();
        changed[at] = &forged;
        for wrong in [removed, swapped, changed] {
            std::fs::write(&file, wrong.join("\n")).expect("a file can be written");
            let said = admin.run(&verify).await.refused(3);
            assert!(said.contains("the audit is broken"), "{at}: {said}");
        }
    }

    // The broker deletes no entry. Who makes the stream anew without one, or with fewer, is found out.
    let client = fleet.admin(Account::Fleet).await;
    let stream = jetstream::new(client.clone()).get_stream("AUDIT").await.expect("it is there");
    assert!(stream.delete_message(3).await.is_err(), "the broker deletes no entry");
    assert!(stream.purge().await.is_err(), "the broker purges no entry");
    let mut kept = Vec::new();
    for sequence in 1..=8 {
        kept.push(stream.get_raw_message(sequence).await.expect("it is there").payload);
    }
    for (left_out, option) in [(Some(3), String::new()), (None, format!(" --noted {noted}"))] {
        let call = async |call: &str, body: String| client.request(call.to_owned(), body.into()).await;
        let config = stream.cached_info().config.clone();
        let _ = call("$JS.API.STREAM.DELETE.AUDIT", String::new()).await.expect("an answer");
        let config = serde_json::to_string(&config).expect("a configuration is JSON");
        let _ = call("$JS.API.STREAM.CREATE.AUDIT", config).await.expect("an answer");
        // One in the middle, or the last.
        let left_out = left_out.unwrap_or(kept.len() - 1);
        for (at, payload) in kept.iter().enumerate().filter(|(at, _)| *at != left_out) {
            let _ =
                client.request("audit.entry", payload.clone()).await.unwrap_or_else(|e| panic!("{at}: {e}"));
        }
        let said = admin.run(&format!("audit verify{option}")).await.refused(3);
        assert!(said.contains("the audit is broken"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_that_cannot_be_entered() {
    let fleet = Fleet::start().await;
    let admin = fleet.cli("policy");
    let client = fleet.admin(Account::Fleet).await;
    let _ = client.request("$JS.API.STREAM.DELETE.AUDIT", "".into()).await.expect("an answer");
    let said = admin.run_with(&["apply", "-f", "-"], GROUP).await.refused(5);
    assert!(said.contains("nothing was changed") && said.contains("audit"), "{said}");
    let groups = admin.json("group list").await;
    assert_eq!(groups["groups"].as_array().map(Vec::len), Some(1), "only the root is there: {groups}");
}
