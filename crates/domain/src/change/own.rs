//! Who may change what somebody keeps in order.
//!
//! An object may carry a mark of who keeps it in order. Whoever asks for a change shows a claim: a mark, or none. What the
//! change leaves as it is may be named by everybody. The mark is a guard against accidents and no permission: who shows the
//! same mark, or says that it takes over, is let through.

use super::{Operation, Refusal, Violation, Wanted};
use crate::catalog::{Catalog, Channel, Group, Keeper, ObjectKey, Stage};

/// What whoever asks for a change says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// The mark that it shows, and leaves on what it writes. `None`: what it writes has the mark that it had, or none.
    pub manager: Option<Keeper>,
    /// Whether it changes what others keep in order as well; then their marks make room for its own, or go.
    pub take_over: bool,
}

impl Claim {
    /// The mark that an object has after a change.
    #[must_use]
    pub fn mark(&self, before: Option<&Keeper>) -> Option<Keeper> {
        match (&self.manager, before) {
            (Some(own), _) => Some(own.clone()),
            (None, Some(there)) if !self.take_over => Some(there.clone()),
            (None, Some(_) | None) => None,
        }
    }

    /// Who is in the way of a change of something with this mark.
    fn refused<'a>(&self, there: Option<&'a Keeper>) -> Option<&'a Keeper> {
        there.filter(|there| !self.take_over && self.manager.as_ref() != Some(*there))
    }
}

/// Marks what the operations write, and checks that they change nothing that somebody else keeps in order. Stages of a
/// channel have marks of their own, which whoever names a stage sets with [`Claim::mark`].
///
/// # Errors
/// [`Refusal`] names each object and who keeps it.
pub fn own(catalog: &Catalog, operations: &mut [Operation], claim: &Claim) -> Result<(), Refusal> {
    let mut violations = Vec::new();
    for operation in operations.iter_mut() {
        let in_the_way = match &mut operation.wanted {
            Wanted::Group(group) => {
                let before = catalog.group(&group.id).map(|before| &*before.value);
                let there = before.and_then(|before| before.manager.as_ref());
                group.manager = claim.mark(there);
                before.filter(|before| *before != group).and_then(|_| claim.refused(there))
            }
            Wanted::Kind(kind) => {
                let before = catalog.kind(&kind.name).map(|before| &*before.value);
                let there = before.and_then(|before| before.manager.as_ref());
                kind.manager = claim.mark(there);
                before.filter(|before| *before != kind).and_then(|_| claim.refused(there))
            }
            Wanted::Policy(policy) => {
                let before = catalog.policy(&policy.name).map(|before| &*before.value);
                let there = before.and_then(|before| before.manager.as_ref());
                policy.manager = claim.mark(there);
                before.filter(|before| !before.says_the_same(policy)).and_then(|_| claim.refused(there))
            }
            Wanted::Token(token) => {
                let before = catalog.token(&token.id).map(|before| &*before.value);
                let there = before.and_then(|before| before.manager.as_ref());
                token.manager = claim.mark(there);
                before.filter(|before| *before != token).and_then(|_| claim.refused(there))
            }
            Wanted::Channel(channel) => {
                let before = catalog.channel(&channel.name).map(|before| &*before.value);
                before.and_then(|before| stage_refused(claim, before, Some(channel)))
            }
            Wanted::Deleted(key) => deleted(catalog, key, claim),
            Wanted::Epoch(_) | Wanted::Content(_) | Wanted::Uploads(_) | Wanted::Sweep(_) => None,
        };
        if let Some(manager) = in_the_way {
            violations.push(Violation::Managed { key: operation.wanted.key(), manager: manager.clone() });
        }
    }
    let named: Vec<ObjectKey> = operations.iter().map(|operation| operation.wanted.key()).collect();
    for operation in operations.iter() {
        let Wanted::Group(group) = &operation.wanted else { continue };
        let along =
            moved_along(catalog, group).filter(|group| !named.contains(&ObjectKey::Group(group.id.clone())));
        violations.extend(along.filter_map(|group| {
            let manager = claim.refused(group.manager.as_ref())?.clone();
            Some(Violation::Managed { key: ObjectKey::Group(group.id.clone()), manager })
        }));
    }
    if violations.is_empty() { Ok(()) } else { Err(Refusal::new(violations, 0)) }
}

/// Groups that move because one above them does.
fn moved_along<'a>(catalog: &'a Catalog, group: &Group) -> impl Iterator<Item = &'a Group> {
    let from = catalog.group(&group.id).map(|before| before.value.path.clone());
    let from = from.filter(|from| *from != group.path && !from.is_root());
    let below = from.map(|from| catalog.subtree(&from)).unwrap_or_default();
    below.into_iter().skip(1).map(|group| &*group.value)
}

/// Who keeps a stage that is another one after the change.
fn stage_refused<'a>(claim: &Claim, before: &'a Channel, after: Option<&Channel>) -> Option<&'a Keeper> {
    let says = |stage: &Stage| (stage.revision, stage.manager.clone());
    let changed = before.stages.iter().filter(|(name, stage)| {
        after.and_then(|after| after.stages.get(*name)).is_none_or(|after| says(after) != says(stage))
    });
    changed.into_iter().find_map(|(_, stage)| claim.refused(stage.manager.as_ref()))
}

fn deleted<'a>(catalog: &'a Catalog, key: &ObjectKey, claim: &Claim) -> Option<&'a Keeper> {
    let there = match key {
        ObjectKey::Kind(name) => catalog.kind(name)?.value.manager.as_ref(),
        ObjectKey::Policy(name) => catalog.policy(name)?.value.manager.as_ref(),
        ObjectKey::Group(id) => catalog.group(id)?.value.manager.as_ref(),
        ObjectKey::Token(id) => catalog.token(id)?.value.manager.as_ref(),
        ObjectKey::Channel(name) => return stage_refused(claim, &catalog.channel(name)?.value, None),
        ObjectKey::Epoch
        | ObjectKey::ApiToken(_)
        | ObjectKey::Content(..)
        | ObjectKey::Uploads
        | ObjectKey::Sweep => None,
    };
    claim.refused(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Entry;
    use crate::content::{ChannelName, ContentRevision, StageName};
    use crate::id::{GroupId, PolicyName};
    use crate::path::GroupPath;
    use crate::revision::Revision;

    fn mark(text: &str) -> Option<Keeper> {
        (!text.is_empty()).then(|| Keeper::new(text).unwrap())
    }

    fn claim(text: &str) -> Claim {
        Claim { manager: mark(text.trim_start_matches('!')), take_over: text.starts_with('!') }
    }

    fn group(id: &str, path: &str, manager: &str) -> Group {
        let group = Group::new(GroupId::new(id).unwrap(), GroupPath::new(path).unwrap());
        Group { manager: mark(manager), ..group }
    }

    fn catalog(groups: &[Group]) -> Catalog {
        let mut catalog = Catalog::new();
        catalog.fold(groups.iter().map(|group| Entry::Group(group.clone().into())), Revision(3));
        catalog
    }

    /// What is left of a change: marks of what it writes, or what is refused.
    fn check(there: &str, claimed: &str, changed: bool) -> Result<String, String> {
        let catalog = catalog(&[group("web", "/web", there)]);
        let mut wanted = group("web", "/web", "");
        if changed {
            wanted.policies.insert(PolicyName::new("p").unwrap());
        }
        let mut operations = vec![Operation::from(Wanted::Group(wanted))];
        own(&catalog, &mut operations, &claim(claimed)).map_err(|refusal| refusal.to_string())?;
        let Wanted::Group(group) = &operations[0].wanted else { panic!("a group") };
        Ok(group.manager.as_ref().map(Keeper::to_string).unwrap_or_default())
    }

    #[test]
    fn a_change_keeps_out_of_what_others_keep() {
        let (ours, theirs) = ("kubernetes:default", "kubernetes:other");
        let refused = Err(format!(
            "group \"web\" is managed by {ours}: change it there (`kubectl --namespace default edit \
             groups.muster.dev web`), or take it over with `muster apply --take-over`"
        ));
        let mark = |text: &str| Ok(text.to_owned());
        for (there, claimed, changed, expected) in [
            // Nobody keeps it: whoever shows a mark keeps it from now on.
            ("", "", true, mark("")),
            ("", ours, true, mark(ours)),
            ("", ours, false, mark(ours)),
            ("", "!", true, mark("")),
            // Who keeps it may change it.
            (ours, ours, true, mark(ours)),
            // Others may say what is so already, and change nothing.
            (ours, "", false, mark(ours)),
            (ours, "", true, refused.clone()),
            (ours, theirs, true, refused.clone()),
            (ours, theirs, false, refused),
            // Unless they take it over.
            (ours, "!", true, mark("")),
            (ours, "!", false, mark("")),
            (ours, &format!("!{theirs}"), false, mark(theirs)),
        ] {
            assert_eq!(check(there, claimed, changed), expected, "{there:?} {claimed:?} {changed}");
        }
    }

    #[test]
    fn what_is_kept_is_not_deleted_or_moved_along() {
        let ours = "kubernetes:default";
        let catalog =
            catalog(&[group("a", "/a", ""), group("web", "/a/web", ours), group("db", "/a/db", "")]);
        let web = GroupId::new("web").unwrap();
        let delete = || Wanted::Deleted(ObjectKey::Group(web.clone()));
        let moved = || Wanted::Group(group("a", "/b", ""));
        let moved_too = || vec![moved(), Wanted::Group(group("web", "/b/web", ""))];
        for (wanted, claimed, expected) in [
            (vec![delete()], "", false),
            (vec![delete()], ours, true),
            (vec![delete()], "!", true),
            (vec![moved()], "", false),
            (vec![moved()], "!", true),
            (moved_too(), "", false),
            (moved_too(), ours, true),
        ] {
            let mut operations: Vec<Operation> = wanted.into_iter().map(Operation::from).collect();
            let result = own(&catalog, &mut operations, &claim(claimed));
            assert_eq!(result.is_ok(), expected, "{operations:?} {claimed:?}");
        }
    }

    #[test]
    fn each_stage_of_a_channel_is_kept_by_itself() {
        let ours = "kubernetes:default";
        let stage = |name: &str| StageName::new(name).unwrap();
        let channel = Channel::new(ChannelName::new("ips").unwrap());
        let mut there = channel.promoted(&stage("stable"), ContentRevision(1));
        there.stages.get_mut(&stage("stable")).unwrap().manager = mark(ours);
        let mut catalog = Catalog::new();
        catalog.fold([Entry::Channel(there.clone().into())], Revision(3));
        let kept_longer = Channel { keep_revisions: Some(9), ..there.clone() };
        let deleted = Wanted::Deleted(ObjectKey::Channel(there.name.clone()));
        for (wanted, claimed, expected) in [
            (Wanted::Channel(there.promoted(&stage("canary"), ContentRevision(2))), "", true),
            (Wanted::Channel(there.promoted(&stage("stable"), ContentRevision(2))), "", false),
            (Wanted::Channel(there.promoted(&stage("stable"), ContentRevision(2))), ours, true),
            (Wanted::Channel(there.promoted(&stage("stable"), ContentRevision(1))), "", true),
            (Wanted::Channel(kept_longer), "", true),
            (deleted.clone(), "", false),
            (deleted, "!", true),
        ] {
            let mut operations = [Operation::from(wanted)];
            let result = own(&catalog, &mut operations, &claim(claimed));
            assert_eq!(result.is_ok(), expected, "{operations:?} {claimed:?}");
        }
    }
}
