//! Apply: any number of objects in one atomic change.

use std::collections::BTreeMap;

use domain::access::Reach;
use domain::catalog::{Catalog, Group, ObjectKey, Token, Versioned};
use domain::change::{Claim, MAX_ENTRIES, Operation, Wanted};
use domain::enrol::{Approval, Scope};
use domain::token::Terms;
use domain::{GroupId, GroupPath, TokenId};
use runtime::trust::IssuedToken;
use tonic::{Request, Status};
use wire::api::v1;
use wire::api::v1::resource::Resource;

use super::refuse::Fields;
use super::release::{self, Release};
use super::{convert, manner, refuse, write};
use crate::fold::View;
use crate::replica::Replica;

pub(super) async fn apply(
    replica: &Replica,
    request: Request<v1::ApplyRequest>,
) -> Result<v1::ApplyResponse, Status> {
    let (mut manner, request) = manner(request, |r| (r.dry_run, std::mem::take(&mut r.message)))?;
    manner.claim = convert::claim(&request.manager, request.take_over)?;
    if request.resources.len() > MAX_ENTRIES {
        let why =
            format!("there are {}; at most {MAX_ENTRIES} are allowed in one change", request.resources.len());
        return Err(refuse::field("resources", why));
    }
    // From here on a stop waits for the answer, also while the request is only read.
    let _busy = replica.busy();
    // Schemas are compiled and documents walked: hundreds of milliseconds for the largest request.
    let prepared = tokio::task::spawn_blocking(|| prepare(request.resources)).await;
    let prepared =
        prepared.map_err(|error| Status::internal(format!("the request could not be read: {error}")))?;
    let mut drafted = Draft::default();
    let mut places: BTreeMap<ObjectKey, String> = BTreeMap::new();
    let (reach, claim) = (&manner.caller.reach, &manner.claim);
    let wish = |view: &View| {
        drafted = draft(replica, view, (reach, claim), &prepared)?;
        for (operation, field) in drafted.operations.iter().zip(&drafted.fields) {
            places.entry(operation.wanted.key()).or_insert_with(|| field.clone());
        }
        Ok(std::mem::take(&mut drafted.operations))
    };
    let made = crate::change::make(replica, &manner, wish).await;
    let place = |key: &ObjectKey, part: &str| places.get(key).map(|field| format!("{field}{part}"));
    let made = made.map_err(|error| refuse::change(error, &place))?;
    let dry_run = made.dry_run;
    let (made, mut result) = write::shown(made).await?;
    let releases: Vec<Release> = prepared.releases().map(|(_, release)| release.clone()).collect();
    result.objects = release::shown(&made.before.catalog, &releases, result.objects);
    let tokens = if dry_run { Vec::new() } else { std::mem::take(&mut drafted.issued) };
    Ok(v1::ApplyResponse { result: Some(result), tokens: tokens.into_iter().map(secret).collect() })
}

/// The resources of a request, read as far as that needs no catalogue.
struct Prepared {
    resources: Vec<(String, Part)>,
    wrong: Fields,
}

enum Part {
    Group(Box<v1::Group>),
    Token(v1::Token),
    /// A kind or a policy, and the revision that it must be at.
    Read(Box<Wanted>, u64),
    /// What a stage of a channel should name.
    Release(Release),
    /// What is wrong with it has been noted.
    Wrong,
}

impl Prepared {
    /// The releases of content, with where they stand.
    fn releases(&self) -> impl Iterator<Item = (&str, &Release)> {
        self.resources.iter().filter_map(|(field, part)| match part {
            Part::Release(release) => Some((field.as_str(), release)),
            Part::Group(_) | Part::Token(_) | Part::Read(..) | Part::Wrong => None,
        })
    }
}

fn prepare(resources: Vec<v1::Resource>) -> Prepared {
    let mut wrong = Fields::default();
    let mut read = Vec::new();
    for (index, resource) in resources.into_iter().enumerate() {
        let at = |kind: &str| format!("resources[{index}].{kind}");
        read.push(match resource.resource {
            Some(Resource::Group(group)) => (at("group"), Part::Group(Box::new(group))),
            Some(Resource::Token(token)) => (at("token"), Part::Token(token)),
            Some(Resource::Kind(kind)) => {
                let (field, revision) = (at("kind"), kind.revision);
                let kind = convert::kind(&mut wrong, &field, kind);
                (field, part(kind.map(Wanted::Kind), revision))
            }
            Some(Resource::Policy(policy)) => {
                let (field, revision) = (at("policy"), policy.revision);
                let policy = convert::policy(&mut wrong, &field, policy);
                (field, part(policy.map(Wanted::Policy), revision))
            }
            Some(Resource::ContentRelease(message)) => {
                let field = at("content_release");
                let release = release::read(&mut wrong, &field, &message);
                (field, release.map_or(Part::Wrong, Part::Release))
            }
            None => {
                let field = format!("resources[{index}]");
                wrong.wrong(&field, "must be a group, a kind, a policy, a token or a content release");
                (field, Part::Wrong)
            }
        });
    }
    Prepared { resources: read, wrong }
}

fn part(wanted: Option<Wanted>, revision: u64) -> Part {
    wanted.map_or(Part::Wrong, |wanted| Part::Read(Box::new(wanted), revision))
}

/// What a request comes to on a certain state of the catalogue.
#[derive(Default)]
struct Draft {
    operations: Vec<Operation>,
    /// Where each operation stands in the request.
    fields: Vec<String>,
    /// Tokens to hand out once the change is stored.
    issued: Vec<IssuedToken>,
}

fn draft(
    replica: &Replica,
    view: &View,
    (reach, claim): (&Reach, &Claim),
    prepared: &Prepared,
) -> Result<Draft, Status> {
    let mut draft = Draft::default();
    let mut wrong = prepared.wrong.clone();
    let mut groups: BTreeMap<GroupPath, GroupId> = BTreeMap::new();
    for (field, part) in &prepared.resources {
        let (wanted, revision) = match part {
            Part::Group(message) => match convert::group(&view.catalog, &mut wrong, field, message) {
                Some(group) => {
                    groups.insert(group.path.clone(), group.id.clone());
                    (Wanted::Group(group), message.revision)
                }
                None => continue,
            },
            Part::Read(wanted, revision) => ((**wanted).clone(), *revision),
            Part::Token(_) | Part::Release(_) | Part::Wrong => continue,
        };
        draft.operations.push(Operation { wanted, expect: write::expect(revision) });
        draft.fields.push(field.clone());
    }
    for (field, part) in &prepared.resources {
        let Part::Token(message) = part else { continue };
        let known = Groups { catalog: &view.catalog, reach, new: &groups };
        let Some(asked) = token(&known, (&mut wrong, field), message) else { continue };
        let wanted = match asked {
            Asked::Known(token) => token,
            Asked::New { id, scope, terms } => {
                let issuer = replica.trust.issuer().map_err(refuse::no_root)?;
                let issued = issuer.issue(id, scope, terms, runtime::clock::now());
                let token = issued.token.clone();
                draft.issued.push(issued);
                token
            }
        };
        draft.operations.push(Wanted::Token(wanted).into());
        draft.fields.push(field.clone());
    }
    let releases: Vec<(&str, &Release)> = prepared.releases().collect();
    for (field, channel) in release::channels((&view.catalog, claim), &mut wrong, &releases) {
        draft.operations.push(Wanted::Channel(channel).into());
        draft.fields.push(field);
    }
    wrong.check()?;
    Ok(draft)
}

/// What a token in a request asks for.
#[derive(Debug, PartialEq)]
enum Asked {
    /// One that is there already, on the same terms: its secret is not shown again.
    Known(Token),
    /// A new one.
    New { id: Option<TokenId>, scope: Scope, terms: Terms },
}

/// Groups that a token may name: those of the catalogue that the caller sees, and those of the same request.
struct Groups<'a> {
    catalog: &'a Catalog,
    reach: &'a Reach,
    new: &'a BTreeMap<GroupPath, GroupId>,
}

fn token(groups: &Groups<'_>, (wrong, field): (&mut Fields, &str), message: &v1::Token) -> Option<Asked> {
    let at = |part: &str| format!("{field}.{part}");
    let id = match message.name.as_str() {
        "" => Some(None),
        text => wrong.take(&at("name"), TokenId::new(text)).map(Some),
    };
    let scope = wire::enrol::read_scope(message, &|text| groups.find(text));
    let scope = scope.map_err(|all| all.into_iter().for_each(|(field, why)| wrong.wrong(at(&field), why)));
    let ttl = match &message.ttl {
        None => Some(None),
        Some(ttl) => match wire::time::read_duration(ttl) {
            Some(span) => Some(Some(span)),
            None => {
                wrong.wrong(at("ttl"), "must be a duration, not negative");
                None
            }
        },
    };
    let uses = (message.uses != 0).then_some(message.uses);
    let terms = Terms::new(uses, ttl?);
    let blamed = if matches!(terms, Err(domain::token::TermsError::Uses)) { "uses" } else { "ttl" };
    let terms = wrong.take(&at(blamed), terms)?;
    let (id, scope) = (id?, scope.ok()?);
    let known = id.as_ref().and_then(|id| groups.catalog.token(id));
    let Some(known) = known else { return Some(Asked::New { id, scope, terms }) };
    let known = &*known.value;
    let same = terms.token(known.id.clone(), scope, known.secret_digest, known.created_at);
    let same = Token { manager: known.manager.clone(), ..same };
    if same == *known {
        return Some(Asked::Known(same));
    }
    wrong
        .wrong(at("name"), "names a token that exists on other terms: revoke it first, or take another name");
    None
}

impl Groups<'_> {
    /// A group by path or name.
    fn find(&self, text: &str) -> Result<GroupId, String> {
        let missing = || format!("there is no group {text:?}");
        let seen = |group: &&Versioned<Group>| self.reach.holds(self.catalog, &group.value.path);
        if text.starts_with('/') {
            let path = GroupPath::new(text).map_err(|error| error.to_string())?;
            let there = self.catalog.group_at(&path).filter(seen).map(|group| &group.value.id);
            return self.new.get(&path).or(there).cloned().ok_or_else(missing);
        }
        let id = GroupId::new(text).map_err(|error| error.to_string())?;
        let there = self.catalog.group(&id).filter(seen).is_some();
        if there || self.new.values().any(|new| *new == id) { Ok(id) } else { Err(missing()) }
    }
}

fn secret(issued: IssuedToken) -> v1::JoinTokenSecret {
    let IssuedToken { token, join_token } = issued;
    let details = v1::Token {
        name: token.id.to_string(),
        group: wire::enrol::group(&token.scope, GroupId::to_string),
        uses: token.uses,
        ttl: Some(wire::time::to_duration(token.expires_at.since(token.created_at))),
        create_time: Some(wire::time::to_timestamp(token.created_at)),
        expire_time: Some(wire::time::to_timestamp(token.expires_at)),
        used: 0,
        rules: wire::enrol::rules(&token.scope, GroupId::to_string),
        approval_required: token.scope.approval() == Approval::Required,
        manager: token.manager.map(|manager| manager.to_string()).unwrap_or_default(),
    };
    v1::JoinTokenSecret { token: join_token, details: Some(details) }
}

#[cfg(test)]
mod tests {
    use domain::catalog::{Entry, Group};
    use domain::{Digest, Revision, Span, Timestamp};
    use tonic_types::StatusExt as _;

    use super::*;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::new();
        let web = Group::new(GroupId::new("web").unwrap(), GroupPath::new("/web").unwrap());
        let terms = Terms::new(Some(3), Some(Span::from_secs(60))).unwrap();
        let id = TokenId::new("known").unwrap();
        let token = terms.token(id, web.id.clone().into(), Digest::of(b"s"), Timestamp(7));
        catalog.fold([Entry::Group(web.into()), Entry::Token(token.into())], Revision(2));
        catalog
    }

    fn wrong_fields(fields: Fields) -> Vec<(String, String)> {
        let Err(status) = fields.check() else { return Vec::new() };
        let violations = status.get_error_details().bad_request().unwrap().field_violations.clone();
        violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
    }

    fn ask(message: &v1::Token) -> Result<Asked, Vec<(String, String)>> {
        let new = [(GroupPath::new("/new").unwrap(), GroupId::new("new").unwrap())].into();
        let groups = Groups { catalog: &catalog(), reach: &Reach::Everywhere, new: &new };
        let mut wrong = Fields::default();
        let asked = token(&groups, (&mut wrong, "token"), message);
        asked.ok_or_else(|| wrong_fields(wrong))
    }

    #[test]
    fn tokens_are_made_once_and_known_after() {
        let message = |name: &str, group: &str, uses: u32, ttl: i64| v1::Token {
            name: name.into(),
            group: group.into(),
            uses,
            ttl: Some(prost_types::Duration { seconds: ttl, nanos: 0 }),
            ..v1::Token::default()
        };
        assert!(matches!(ask(&message("known", "/web", 3, 60)), Ok(Asked::Known(_))));
        for (name, group, expected) in [("", "web", "web"), ("t", "/new", "new"), ("t", "new", "new")] {
            let Ok(Asked::New { id, scope, .. }) = ask(&message(name, group, 1, 60)) else {
                panic!("{name}")
            };
            let group = scope.group().map(GroupId::as_str);
            assert_eq!((id.is_some(), group), (!name.is_empty(), Some(expected)));
        }
        let ruled = |group: &str| v1::Token {
            rules: vec![v1::EnrolmentRule {
                hostname: "web-*".into(),
                group: group.into(),
                ..v1::EnrolmentRule::default()
            }],
            ..message("t", "web", 1, 60)
        };
        assert!(matches!(ask(&ruled("/new")), Ok(Asked::New { scope, .. }) if scope.rules().len() == 1));
        for (message, field, why) in [
            (message("known", "/web", 4, 60), "token.name", "names a token that exists on other terms"),
            (message("t", "/nowhere", 1, 60), "token.group", "there is no group \"/nowhere\""),
            (message("t", "", 1, 60), "token.group", "must be given: there is no group \"/default\""),
            (ruled("/nowhere"), "token.rules[0].group", "there is no group \"/nowhere\""),
            (message("t", "web", 200_000, 60), "token.uses", "must be between 1 and 100000"),
            (message("t", "web", 1, 9_000_000), "token.ttl", "must be between 1s and 30d"),
            (message("t", "web", 1, -1), "token.ttl", "must be a duration, not negative"),
            (message("t.x", "web", 1, 60), "token.name", "has the character '.'"),
        ] {
            let wrong = ask(&message).unwrap_err();
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(wrong[0].0 == field && wrong[0].1.starts_with(why), "{wrong:?}");
        }
    }

    #[test]
    fn everything_wrong_with_a_request_is_found_at_once() {
        let resource = |resource| v1::Resource { resource: Some(resource) };
        let prepared = prepare(vec![
            resource(Resource::Kind(v1::Kind { name: "k".into(), ..v1::Kind::default() })),
            v1::Resource { resource: None },
            resource(Resource::Policy(v1::Policy { name: "P".into(), ..v1::Policy::default() })),
        ]);
        let fields: Vec<String> = wrong_fields(prepared.wrong).into_iter().map(|(field, _)| field).collect();
        assert_eq!(
            fields,
            [
                "resources[0].kind.schema",
                "resources[1]",
                "resources[2].policy.name",
                "resources[2].policy.kind",
                "resources[2].policy.document",
            ]
        );
    }
}
