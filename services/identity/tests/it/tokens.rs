//! Tokens are made within bounds, listed with their uses, and revoked at once.

use prost_types::Duration;
use tonic::Code;
use tonic_types::StatusExt as _;
use wire::agent::v1::JoinErrorCode;
use wire::api::v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Token};

use crate::fleet::{Fleet, Machine, refused};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_useless_at_once_on_every_replica_and_its_name_is_free() {
    let fleet = Fleet::start().await;
    let (mut one, mut two) = (fleet.replica().await, fleet.replica().await);
    let old = one.token("web", "/", 2).await;
    fleet.join(&Machine::new("a"), &old.token).await.unwrap();
    fleet.join(&Machine::new("b"), &old.token).await.unwrap();
    two.api
        .revoke_token(RevokeTokenRequest { name: "web".into(), ..RevokeTokenRequest::default() })
        .await
        .unwrap();
    for n in 0..20 {
        let outcome = fleet.join(&Machine::new(format!("c{n}")), &old.token).await;
        refused(outcome, JoinErrorCode::TokenUnknown, "it was revoked");
    }
    let gone = one
        .api
        .revoke_token(RevokeTokenRequest { name: "web".into(), ..RevokeTokenRequest::default() })
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);

    let new = two.token("web", "/", 1).await;
    refused(fleet.join(&Machine::new("d"), &old.token).await, JoinErrorCode::TokenUnknown, "not known");
    fleet.join(&Machine::new("e"), &new.token).await.unwrap();
    refused(fleet.join(&Machine::new("f"), &new.token).await, JoinErrorCode::TokenSpent, "no uses left");
    // Agents that joined with the old one stay.
    fleet.join(&Machine::new("g"), &new.token).await.unwrap_err();
    assert!(fleet.head("a").await.is_some());
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_lets_nobody_in() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    let ttl = Some(std::time::Duration::from_secs(1).try_into().unwrap());
    let details = Token { group: "/".into(), ttl, ..Token::default() };
    let request = CreateTokenRequest { details: Some(details) };
    let token = replica.api.create_token(request).await.unwrap().into_inner();
    let ends = token.details.unwrap().expire_time.unwrap();
    let ends = std::time::SystemTime::try_from(ends).unwrap();
    while std::time::SystemTime::now() < ends {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    refused(fleet.join(&Machine::new("a"), &token.token).await, JoinErrorCode::TokenExpired, "has expired");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_listed_by_page_with_their_uses() {
    let fleet = Fleet::start().await;
    fleet.groups(&[("web", "/web")]).await;
    let mut replica = fleet.replica().await;
    for n in 0..5 {
        replica.token(&format!("t{n}"), "web", 3).await;
    }
    let token = replica.token("t5", "/web", 3).await;
    fleet.join(&Machine::new("a"), &token.token).await.unwrap();

    let mut names = Vec::new();
    let mut request = ListTokensRequest { page_size: 2, page_token: String::new() };
    loop {
        let page = replica.api.list_tokens(request.clone()).await.unwrap().into_inner();
        assert!(page.tokens.iter().all(|token| token.group == "/web" && token.uses == 3));
        names.extend(page.tokens.into_iter().map(|token| token.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["t0", "t1", "t2", "t3", "t4", "t5"]);
    let last = ListTokensRequest { page_size: 0, page_token: "t4".into() };
    let counted = async {
        loop {
            let page = replica.api.list_tokens(last.clone()).await.unwrap().into_inner();
            if page.tokens[0].used == 1 {
                return page;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let page = tokio::time::timeout(std::time::Duration::from_secs(10), counted).await.unwrap();
    assert_eq!(page.tokens.len(), 1);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_name_the_field_and_nothing_is_made() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    replica.token("taken", "/", 1).await;
    let good = Token { group: "/".into(), ..Token::default() };
    let ttl = |seconds, nanos| Some(Duration { seconds, nanos });
    for (details, field) in [
        (Token { name: "a.b".into(), ..good.clone() }, "details.name"),
        (Token { name: "x".repeat(10_000), ..good.clone() }, "details.name"),
        (Token { group: String::new(), ..good.clone() }, "details.group"),
        (Token { group: "/a b".into(), ..good.clone() }, "details.group"),
        (Token { group: "Ü".into(), ..good.clone() }, "details.group"),
        (Token { uses: 100_001, ..good.clone() }, "details.uses"),
        (Token { ttl: ttl(0, 0), ..good.clone() }, "details.ttl"),
        (Token { ttl: ttl(-1, 0), ..good.clone() }, "details.ttl"),
        (Token { ttl: ttl(30 * 86_400, 1_000_000), ..good.clone() }, "details.ttl"),
    ] {
        let request = CreateTokenRequest { details: Some(details) };
        let status = replica.api.create_token(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field);
    }
    for (details, code, kind) in [
        (Token { group: "/nowhere".into(), ..good.clone() }, Code::NotFound, "group"),
        (Token { name: "taken".into(), ..good.clone() }, Code::AlreadyExists, "token"),
    ] {
        let request = CreateTokenRequest { details: Some(details) };
        let status = replica.api.create_token(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(status.get_details_resource_info().unwrap().resource_type, kind);
    }
    let list = replica.api.list_tokens(ListTokensRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.tokens.len(), 1);
    let bad_page = ListTokensRequest { page_size: -1, page_token: String::new() };
    assert_eq!(replica.api.list_tokens(bad_page).await.unwrap_err().code(), Code::InvalidArgument);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_made_at_once_on_two_replicas_are_all_there() {
    let fleet = Fleet::start().await;
    let (mut one, mut two) = (fleet.replica().await, fleet.replica().await);
    let make = async |replica: &mut crate::fleet::Replica, side: &str| {
        for n in 0..10 {
            replica.token(&format!("{side}{n}"), "/", 1).await;
        }
    };
    tokio::join!(make(&mut one, "a"), make(&mut two, "b"));
    let list = two.api.list_tokens(ListTokensRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.tokens.len(), 20);
    one.stop().await;
    two.stop().await;
}
