use super::*;

#[test]
fn store_keys_round_trip() {
    for subject in [
        "store.group.web",
        "store.kind.k",
        "store.policy.p-1",
        "store.token.t_2",
        "store.apitoken.ci",
        "store.epoch",
        "store.channel.definitions.ips",
        "store.content.a.b.7",
        "store.uploads",
        "store.sweep",
    ] {
        assert_eq!(StoreKey::parse(subject).unwrap().subject().as_str(), subject);
    }
    for subject in [
        "store.group.",
        "store.group.a.b",
        "store.channel.a..b",
        "store.content.a",
        "store.content.a.07",
        "store.content.7",
        "store.channel.a/b",
        "store.content.a/b.7",
        "store.group.*",
        "store.other.a",
        "desired.epoch",
        "",
    ] {
        assert_eq!(StoreKey::parse(subject), None, "{subject}");
    }
}

#[test]
fn services_answer_only_to_the_agents_own_inbox() {
    let agent = AgentId::new("web-1").unwrap();
    for (reply, expected) in [
        ("_INBOX_agent.web-1.hb.7", true),
        ("_INBOX_agent.web-1.x", true),
        ("_INBOX_agent.web-1.", false),
        ("_INBOX_agent.web-1", false),
        ("_INBOX_agent.web-10.x", false),
        ("_INBOX_agent.web-2.x", false),
        ("_INBOX_agent.web-1.>", false),
        ("_INBOX_agent.web-1.a..b", false),
        ("$JS.API.STREAM.DELETE.POLICY", false),
        ("_INBOX_join.web-1.x", false),
        ("_INBOX_svc.web-1.x", false),
        ("store.group.web-1", false),
    ] {
        assert_eq!(is_inbox_of(reply, &agent), expected, "{reply}");
    }
    let key = format!("U{}", "A".repeat(55));
    assert!(is_join_inbox(&format!("_INBOX_join.{key}.1")));
    assert!(!is_join_inbox(&format!("_INBOX_join.{key}.>")));
    assert!(!is_join_inbox("_INBOX_join.ab12.1"));
    assert!(!is_join_inbox("_INBOX_agent.web-1.1"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in ".{0,200}") {
        let _ = StoreKey::parse(&text);
        let _ = parse_heartbeat(&text);
        let _ = parse_agent(&text);
        let _ = parse_group(&text);
        let _ = is_join_inbox(&text);
    }
}
