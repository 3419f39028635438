use super::*;

fn message(subject: &str, status: Option<StatusCode>) -> Message {
    Message {
        subject: subject.into(),
        reply: None,
        payload: Bytes::from_static(b"x"),
        headers: None,
        status,
        description: None,
        length: 0,
    }
}

#[test]
fn a_message_says_where_it_was_published_if_it_says_so_rightly() {
    let place = TraceParent { trace_id: [7; 16], span_id: [9; 8], sampled: true };
    let said = |header: Option<&str>, subject: &str| {
        let headers = header.map(|header| {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert(TRACEPARENT, header);
            headers
        });
        Message { headers, ..message(subject, None) }
    };
    let heard = |header: Option<&str>| Heard::from(said(header, "notify.group.a"));
    let text = place.to_string();
    let expected = Heard { payload: Bytes::from_static(b"x"), place: Some(place) };
    assert_eq!(heard(Some(&text)), expected);
    assert_eq!(answer(said(Some(&text), "_INBOX_agent.a.1f.h7")), Some(Event::Beat(7, Some(expected))));
    for nothing in [None, Some(""), Some("00-zz"), Some("é")] {
        assert_eq!(heard(nothing), Heard::from(Bytes::from_static(b"x")), "{nothing:?}");
    }
}

#[test]
fn replies_are_told_apart_by_their_subject_and_status() {
    let payload = Bytes::from_static(b"x");
    for (subject, status, expected) in [
        ("_INBOX_agent.a.1f.h7", None, Some(Event::Beat(7, Some(payload.clone().into())))),
        ("_INBOX_agent.a.1f.h7", Some(StatusCode::NO_RESPONDERS), Some(Event::Beat(7, None))),
        ("_INBOX_agent.a.1f.f8", None, Some(Event::Fetched(8, Fetched::Envelope(payload.into())))),
        ("_INBOX_agent.a.1f.f8", Some(StatusCode::NOT_FOUND), Some(Event::Fetched(8, Fetched::Empty))),
        ("_INBOX_agent.a.1f.r2", Some(StatusCode::NOT_FOUND), Some(Event::Root(2, Fetched::Empty))),
        ("_INBOX_agent.a.1f.x8", None, None),
        ("_INBOX_agent.a.1f.h", None, None),
        ("_INBOX_agent.a.1f.é7", None, None),
        ("", None, None),
    ] {
        assert_eq!(answer(message(subject, status)), expected, "{subject}");
    }
    let empty = Message { payload: Bytes::new(), ..message("_INBOX_agent.a.1f.f8", None) };
    assert_eq!(answer(empty.clone()), Some(Event::Fetched(8, Fetched::Empty)));
    assert_eq!(said(empty, |message| Event::Group(message.into())), []);
    let failed = answer(message("_INBOX_agent.a.1f.f8", Some(StatusCode::NO_RESPONDERS)));
    assert!(matches!(failed, Some(Event::Fetched(8, Fetched::Failed(_)))));
}

#[test]
fn reply_subjects_lie_in_the_agents_own_inbox() {
    let agent = AgentId::new("web-1").unwrap();
    let transport = NatsTransport::new(Vec::new(), &agent, u64::MAX);
    let reply = format!("{}.{HEARTBEAT}{}", transport.replies, u64::MAX);
    assert!(subject::is_inbox_of(&reply, &agent), "{reply}");
}
