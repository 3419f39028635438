//! Commands as handlers, with real processes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::content::{ChannelName, ContentRevision};
use domain::{Digest, KindName};

use crate::command::CommandHandler;
use crate::handler::{ContentChange, Handler, HeldRevision, PolicyChange};

fn handler(config: &str) -> Result<CommandHandler, String> {
    let table: toml::Table = config.parse().unwrap();
    CommandHandler::from_table(table.get("handlers"), std::env::temp_dir())
        .map_err(|error| runtime::log::chain(&error))
}

fn change(document: Option<&'static str>) -> PolicyChange {
    let kind = KindName::new("web").unwrap();
    PolicyChange {
        kind,
        document: document.map(|d| Bytes::from_static(d.as_bytes())),
        file: Some("x.json".into()),
    }
}

async fn run(script: &str, document: Option<&'static str>) -> Result<(), String> {
    let config = toml::toml! { [handlers.web] command = ["sh", "-c", "SCRIPT"] timeout = "1s" }.to_string();
    let script = toml::Value::from(script).to_string();
    handler(&config.replace("\"SCRIPT\"", &script)).unwrap().apply(change(document)).await
}

#[tokio::test]
async fn a_command_learns_what_changed_and_its_end_decides() {
    assert_eq!(
        run("test $MUSTER_KIND-$MUSTER_ACTION-$MUSTER_FILE = web-apply-x.json", Some("{}")).await,
        Ok(())
    );
    assert_eq!(run("test $MUSTER_ACTION = remove", None).await, Ok(()));
    let failed = run("seq 1 1000 >&2; echo no such table >&2; exit 3", Some("{}")).await.unwrap_err();
    assert!(failed.starts_with("\"sh\" ended with code 3: "), "{failed}");
    assert!(failed.ends_with("no such table") && failed.len() < 1024, "the tail is kept: {failed}");
    let killed = run("kill -9 $$", Some("{}")).await.unwrap_err();
    assert!(killed.contains("killed by a signal"), "{killed}");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let started = Instant::now();
    let late = run("echo begun >&2; sleep 77 & sleep 78", Some("{}")).await.unwrap_err();
    assert!(late.contains("longer than 1 s") && late.contains("begun"), "{late}");
    assert!(started.elapsed() < Duration::from_secs(10));
    // A child that keeps the error output open does not hold up a command that ended.
    let started = Instant::now();
    assert_eq!(run("sleep 79 & exit 0", Some("{}")).await, Ok(()));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn kinds_without_a_command_are_not_handled_and_a_missing_program_is_named() {
    let handler =
        handler("[handlers.web]\ncommand = [\"no-such-program-here\"]\nhealth = [\"false\"]").unwrap();
    assert!(!handler.handles(&KindName::new("other").unwrap()));
    let error = handler.apply(change(Some("{}"))).await.unwrap_err();
    assert!(error.starts_with("cannot run \"no-such-program-here\""), "{error}");
    let error = handler.check_health(&KindName::new("web").unwrap()).await.unwrap_err();
    assert!(error.starts_with("health check: \"false\" ended with code 1"), "{error}");
}

#[test]
fn configuration_is_checked_by_kind_and_key() {
    for (config, expected) in [
        ("handlers = 1", "the table [handlers] cannot be read"),
        ("[handlers.\"a.b\"]\ncommand = [\"x\"]", "[handlers.a.b]: \"a.b\" is not the name of a kind"),
        ("[handlers.web]\ncommand = []", "[handlers.web]: command must name a program"),
        ("[handlers.web]\ncommand = [\"x\"]\nhealth = [\"\"]", "[handlers.web]: health must name a program"),
        (
            "[handlers.web]\ncommand = [\"x\"]\ntimeout = \"2d\"",
            "[handlers.web]: timeout: must be more than 0",
        ),
        ("[handlers.web]\ncommand = [\"x\"]\ntimeout = \"soon\"", "[handlers.web]: timeout: \"soon\" is not"),
        ("[handlers.web]\ncommand = [\"x\"]\nshell = true", "the table [handlers] cannot be read"),
    ] {
        let error = handler(config).unwrap_err();
        assert!(error.starts_with(expected), "{config}: {error}");
    }
    for (config, expected) in [
        ("content = 1", "the table [content] cannot be read"),
        (
            "[content.\"a//b\"]\ncommand = [\"x\"]",
            "[content.\"a//b\"]: \"a//b\" is not the name of a channel",
        ),
        ("[content.\"a/b\"]\ncommand = []", "[content.\"a/b\"]: command must name a program"),
        ("[content.a]\ncommand = [\"x\"]\ntimeout = \"2d\"", "[content.\"a\"]: timeout: must be more than 0"),
    ] {
        let error = content_handler(config).unwrap_err();
        assert!(error.starts_with(expected), "{config}: {error}");
    }
    let one = handler("[handlers.web]\ncommand = [\"x\"]").unwrap().fingerprint();
    assert_ne!(one, handler("[handlers.web]\ncommand = [\"y\"]").unwrap().fingerprint());
    assert_eq!(one, handler("[handlers.web]\ncommand = [\"x\"]").unwrap().fingerprint());
}

fn content_handler(config: &str) -> Result<CommandHandler, String> {
    let table: toml::Table = config.parse().unwrap();
    let handler = CommandHandler::from_table(None, std::env::temp_dir()).unwrap();
    handler.with_content(table.get("content")).map_err(|error| runtime::log::chain(&error))
}

#[tokio::test]
async fn a_command_for_content_learns_where_it_lies_and_which_it_is() {
    let script = r#"
        echo "$MUSTER_CHANNEL $MUSTER_ACTION $MUSTER_CONTENT_DIR $MUSTER_CONTENT_REVISION" >&2
        echo "$MUSTER_CONTENT_MANIFEST" >&2
        exit 1
    "#;
    let config = toml::toml! {
        [content."definitions/ips"]
        command = ["sh", "-c", "SCRIPT"]
        health = ["sh", "-c", "SCRIPT"]
    };
    let config = config.to_string().replace("\"SCRIPT\"", &toml::Value::from(script).to_string());
    let handler = content_handler(&config).unwrap();
    let change = |channel: &str, revision: Option<HeldRevision>| ContentChange {
        channel: ChannelName::new(channel).unwrap(),
        dir: "/d".into(),
        revision,
    };
    let held = HeldRevision { number: ContentRevision(7), manifest: Digest([1; 32]) };
    let said = handler.apply_content(change("definitions/ips", Some(held))).await.unwrap_err();
    assert!(said.contains("definitions/ips apply /d 7\n010101"), "{said}");
    let said = handler.check_content(&change("definitions/ips", Some(held))).await.unwrap_err();
    assert!(said.starts_with("health check: ") && said.contains("definitions/ips health /d 7"), "{said}");
    let said = handler.apply_content(change("definitions/ips", None)).await.unwrap_err();
    assert!(said.contains("definitions/ips remove /d"), "{said}");
    assert_eq!(handler.apply_content(change("other", Some(held))).await, Ok(()));
    let other = content_handler("[content.a]\ncommand = [\"x\"]").unwrap();
    assert_ne!(handler.content_fingerprint(), other.content_fingerprint());
    assert_eq!(handler.fingerprint(), other.fingerprint(), "policies are not concerned");
}
