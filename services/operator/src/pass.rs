//! One pass: look, plan, carry out, look again, tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::Timestamp;
use tonic::Status as Refusal;
use wire::api::v1;
use wire::api::v1::resource::Resource as Any;

use crate::cluster::{Cluster, is_silence};
use crate::fleet::Fleet;
use crate::muster::{Muster, MusterError, Servers, passing};
use crate::object::{Key, Kind, Object};
use crate::plan::{Batch, Plan, blamed, mark, plan};
use crate::status::{Outcome, Share, Status, TokenStatus, status, time};
use crate::tokens::{self, Held, Step};
use crate::watch::Objects;

/// Rounds of one change, each without those that the one before blamed. A refusal names the first ones; whoever is left
/// after so many waits for the next pass.
const MAX_ROUNDS: usize = 20;
/// Changes that blame nobody are tried one by one up to this many objects.
const MAX_SINGLES: usize = 50;
/// Wait for what comes with a change: whoever applies a folder sends one object after the other.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    /// The fleet.
    #[error(transparent)]
    Muster(#[from] MusterError),
    /// A call that may go well later.
    #[error("the fleet cannot be changed: {}", .0.message())]
    Refused(Box<Refusal>),
    /// Kubernetes.
    #[error("Kubernetes cannot be written to")]
    Kubernetes(#[from] kube::Error),
}

/// What passes need.
pub(crate) struct Operator {
    pub(crate) cluster: Cluster,
    pub(crate) servers: Servers,
    pub(crate) objects: Objects,
    /// What our marks begin with.
    pub(crate) prefix: String,
    pub(crate) share: Share,
}

/// A pass under way.
struct Pass<'a> {
    operator: &'a Operator,
    muster: Muster,
    objects: &'a BTreeMap<Key, Object>,
    outcomes: BTreeMap<Key, Outcome>,
    /// Objects that the fleet has as they stand in Kubernetes.
    synced: BTreeSet<Key>,
    changed: bool,
    /// What Kubernetes did not take.
    trouble: Option<kube::Error>,
}

impl Operator {
    /// Does what there is to do. Answers whether anything happened.
    pub(crate) async fn pass(&self) -> Result<bool, PassError> {
        let Some(objects) = self.objects.all() else { return Ok(false) };
        let muster = Muster::open(&self.servers).await?;
        let channels = channels(&objects);
        let mut fleet = muster.fleet(&channels).await?;
        let plan = plan(&objects, &fleet, &self.prefix);
        let mut pass = Pass {
            operator: self,
            muster,
            objects: &objects,
            outcomes: BTreeMap::new(),
            synced: BTreeSet::new(),
            changed: false,
            trouble: None,
        };
        pass.carry_out(plan).await?;
        pass.tokens(&fleet).await?;
        if pass.changed {
            fleet = pass.muster.fleet(&channels).await?;
        }
        pass.conclude(&fleet);
        pass.tell().await
    }
}

/// Channels that releases name.
fn channels(objects: &BTreeMap<Key, Object>) -> Vec<String> {
    let named = objects.values().filter_map(|object| match &object.wanted.as_ref().ok()?.resource {
        Some(Any::ContentRelease(release)) => Some(release.channel.clone()),
        _ => None,
    });
    named.collect::<BTreeSet<String>>().into_iter().collect()
}

fn refused(message: String) -> Outcome {
    let reason = if message.contains(" is managed by ") { "Managed" } else { "Refused" };
    Outcome::Refused { reason, message }
}

impl Pass<'_> {
    async fn carry_out(&mut self, plan: Plan) -> Result<(), PassError> {
        let Plan { hold, wrong, batches, let_go, delete, release, synced } = plan;
        let mut loose = BTreeSet::new();
        for key in hold {
            if !self.hold(&key).await? {
                loose.insert(key);
            }
        }
        for (key, message) in wrong {
            self.outcomes.insert(key, Outcome::Refused { reason: "Invalid", message });
        }
        self.synced.extend(synced);
        for mut batch in batches {
            batch.objects.retain(|(key, _)| !loose.contains(key));
            self.apply(batch).await?;
        }
        for (key, resource) in let_go {
            let done = self.muster.let_go(&resource).await;
            self.ended(&key, done).await?;
        }
        for key in delete {
            let manager = mark(&self.operator.prefix, &key.namespace);
            let done = self.muster.delete(&key, &manager).await;
            self.ended(&key, done).await?;
        }
        for key in release {
            self.let_end(&key).await?;
        }
        Ok(())
    }

    /// Has an object wait for us at its end. Answers whether it does.
    async fn hold(&mut self, key: &Key) -> Result<bool, PassError> {
        match self.operator.cluster.hold(&self.objects[key], true).await {
            Ok(held) => {
                self.changed |= held;
                Ok(held)
            }
            Err(error) => self.trouble(key, error).map(|()| false),
        }
    }

    /// What Kubernetes did not take is for the next pass. The other objects go on, unless nobody answers.
    fn trouble(&mut self, key: &Key, error: kube::Error) -> Result<(), PassError> {
        if is_silence(&error) {
            return Err(error.into());
        }
        tracing::warn!(object = %key, error = runtime::log::chain(&error), "an object could not be written");
        self.trouble = Some(error);
        Ok(())
    }

    /// An object need not wait for us any more.
    async fn let_end(&mut self, key: &Key) -> Result<(), PassError> {
        match self.operator.cluster.hold(&self.objects[key], false).await {
            Ok(_) => Ok(()),
            Err(error) => self.trouble(key, error),
        }
    }

    /// Makes a change without those that it is refused for.
    async fn apply(&mut self, mut batch: Batch) -> Result<(), PassError> {
        for _ in 0..MAX_ROUNDS {
            if batch.objects.is_empty() {
                return Ok(());
            }
            let status = match self.muster.apply(&batch).await {
                Ok(_) => {
                    self.changed = true;
                    tracing::info!(
                        objects = batch.objects.len(),
                        manager = batch.manager,
                        "changed the fleet"
                    );
                    self.synced.extend(batch.objects.into_iter().map(|(key, _)| key));
                    return Ok(());
                }
                Err(status) if passing(&status) => return Err(PassError::Refused(Box::new(status))),
                Err(status) => status,
            };
            let blamed = blamed(&status);
            if blamed.is_empty() {
                return self.apply_singly(batch, &status).await;
            }
            let mut rest = Vec::new();
            for (index, (key, resource)) in batch.objects.into_iter().enumerate() {
                match blamed.get(&index) {
                    Some(message) => drop(self.outcomes.insert(key, refused(message.clone()))),
                    None => rest.push((key, resource)),
                }
            }
            batch.objects = rest;
        }
        Ok(())
    }

    async fn apply_singly(&mut self, batch: Batch, status: &Refusal) -> Result<(), PassError> {
        let alone = batch.objects.len() == 1 || batch.objects.len() > MAX_SINGLES;
        for (key, resource) in batch.objects {
            let single = Batch { manager: batch.manager.clone(), objects: vec![(key.clone(), resource)] };
            let done = if alone { Err(status.clone()) } else { self.muster.apply(&single).await.map(drop) };
            match done {
                Ok(()) => {
                    self.changed = true;
                    self.synced.insert(key);
                }
                Err(status) if passing(&status) => return Err(PassError::Refused(Box::new(status))),
                Err(status) => drop(self.outcomes.insert(key, refused(status.message().to_owned()))),
            }
        }
        Ok(())
    }

    /// An object has ended in the fleet, or may not end yet.
    async fn ended(&mut self, key: &Key, done: Result<(), Refusal>) -> Result<(), PassError> {
        match done {
            Ok(()) => {
                self.changed = true;
                self.let_end(key).await?;
            }
            Err(status) if passing(&status) => return Err(PassError::Refused(Box::new(status))),
            Err(status) => {
                let message = format!("it cannot go yet: {}", status.message());
                self.outcomes.insert(key.clone(), Outcome::Refused { reason: "InUse", message });
            }
        }
        Ok(())
    }

    async fn tokens(&mut self, fleet: &Fleet) -> Result<(), PassError> {
        for (key, object) in self.objects.iter().filter(|(key, _)| key.kind == Kind::EnrollmentToken) {
            let manager = mark(&self.operator.prefix, &key.namespace);
            if object.deleted {
                if object.held {
                    self.end_tokens(object, (fleet, &manager)).await?;
                }
                continue;
            }
            if object.wanted.is_ok() && !object.held && !self.hold(key).await? {
                continue;
            }
            let outcome = match &object.wanted {
                Ok(v1::Resource { resource: Some(Any::Token(wanted)) }) => {
                    match self.token((object, wanted), (fleet, &manager)).await {
                        Ok(outcome) => outcome,
                        Err(PassError::Kubernetes(error)) => {
                            let message =
                                format!("its Secret cannot be had: {}", runtime::log::chain(&error));
                            self.trouble(key, error)?;
                            Outcome::Refused { reason: "Kubernetes", message }
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(_) => continue,
                Err(why) => Outcome::Refused { reason: "Invalid", message: why.clone() },
            };
            self.outcomes.insert(key.clone(), outcome);
        }
        Ok(())
    }

    /// Nobody joins any more with what was made for an object that ends. Its Secret goes with it.
    async fn end_tokens(
        &mut self,
        object: &Object,
        (fleet, manager): (&Fleet, &str),
    ) -> Result<(), PassError> {
        let mut done = Ok(());
        for token in tokens::of(&object.key.name, fleet.tokens.values(), manager) {
            done = done.and(self.muster.revoke(&token.name, manager).await);
        }
        self.ended(&object.key, done).await
    }

    async fn token(
        &mut self,
        (object, wanted): (&Object, &v1::Token),
        (fleet, manager): (&Fleet, &str),
    ) -> Result<Outcome, PassError> {
        let cluster = &self.operator.cluster;
        let held = cluster.held(object).await?;
        let mine = tokens::of(&object.key.name, fleet.tokens.values(), manager);
        let plan = tokens::plan(object, wanted, mine, &held, runtime::clock::now());
        let token = match plan.step {
            Step::Foreign => {
                let name = tokens::secret_name(&object.key.name);
                let message = format!(
                    "Secret {name} is there and belongs to somebody else: remove it, or take another name"
                );
                return Ok(Outcome::Refused { reason: "SecretTaken", message });
            }
            Step::Keep(token) => token,
            Step::Make => match self.make((object, wanted), &held, manager).await? {
                Ok(token) => token,
                Err(outcome) => return Ok(outcome),
            },
        };
        for name in plan.revoke {
            self.revoke(&name, manager).await;
        }
        Ok(Outcome::Token(TokenStatus {
            secret_name: tokens::secret_name(&object.key.name),
            expires: time(tokens::ends(&token)),
            uses: token.uses.into(),
            used: token.used.into(),
            token: token.name,
        }))
    }

    /// Nobody joins with a token any more. One that is left is revoked by a later pass, or ends by itself.
    async fn revoke(&self, token: &str, manager: &str) {
        if let Err(status) = self.muster.revoke(token, manager).await {
            tracing::warn!(token, error = status.message(), "a token could not be revoked");
        }
    }

    /// Makes a token and puts it into its Secret.
    async fn make(
        &mut self,
        (object, wanted): (&Object, &v1::Token),
        held: &Held,
        manager: &str,
    ) -> Result<Result<v1::Token, Outcome>, PassError> {
        let name = format!("{}-{}", object.key.name, runtime::ids::random_text(tokens::SUFFIX));
        let made = self.muster.make_token(v1::Token { name, ..wanted.clone() }, manager).await;
        let made = match made {
            Ok(made) => made,
            Err(status) if passing(&status) => return Err(PassError::Refused(Box::new(status))),
            Err(status) => {
                let told = blamed(&status).into_values().next();
                return Ok(Err(refused(told.unwrap_or_else(|| status.message().to_owned()))));
            }
        };
        self.changed = true;
        let token = made.details.unwrap_or_default();
        let filled = (token.name.as_str(), tokens::digest(wanted), made.token.as_str());
        let cluster = &self.operator.cluster;
        if let Err(error) = cluster.fill(object, held, (filled.0, &filled.1, filled.2)).await {
            // Nobody knows it, and the next pass makes another: one after the other would be left.
            self.revoke(&token.name, manager).await;
            return Err(error.into());
        }
        let note = format!("token {} is in Secret {}", token.name, tokens::secret_name(&object.key.name));
        cluster.event(object, (true, "TokenMade"), &note).await;
        Ok(Ok(token))
    }

    /// What the fleet says now of what is synced.
    fn conclude(&mut self, fleet: &Fleet) {
        for key in std::mem::take(&mut self.synced) {
            let Ok(wanted) = &self.objects[&key].wanted else { continue };
            let (revision, agents) = match &wanted.resource {
                Some(Any::Group(group)) => {
                    let revision = fleet.groups.get(&group.name).map(|it| it.revision);
                    (revision, Some(fleet.agents([group.path.as_str()])))
                }
                Some(Any::Kind(kind)) => (fleet.kinds.get(&kind.name).map(|it| it.revision), None),
                Some(Any::Policy(policy)) => {
                    let revision = fleet.policies.get(&policy.name).map(|it| it.revision);
                    (revision, Some(fleet.agents_of_policy(&policy.name)))
                }
                Some(Any::ContentRelease(release)) => {
                    let stage = fleet.stages.get(&(release.channel.clone(), release.stage.clone()));
                    let agents = fleet.agents_of_stage(&release.channel, &release.stage, release.revision);
                    (stage.map(|it| it.store_revision), Some(agents))
                }
                Some(Any::Token(_)) | None => continue,
            };
            let outcome = match revision {
                Some(revision) => Outcome::Synced { revision, agents },
                None => refused("it was removed from the fleet meanwhile".to_owned()),
            };
            self.outcomes.entry(key).or_insert(outcome);
        }
    }

    /// Writes what has changed about objects.
    async fn tell(mut self) -> Result<bool, PassError> {
        let (cluster, now) = (&self.operator.cluster, runtime::clock::now());
        let mut told = self.changed;
        for (key, outcome) in &std::mem::take(&mut self.outcomes) {
            let object = &self.objects[key];
            let next = self.next(object, outcome, now);
            if next == object.status {
                continue;
            }
            told = true;
            match cluster.tell(object, &next).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    self.trouble(key, error)?;
                    continue;
                }
            }
            self.operator.objects.told(object, &next);
            if let Some((good, reason, note)) = news(&object.status, &next) {
                cluster.event(object, (good, reason), note).await;
            }
        }
        match self.trouble {
            Some(error) => Err(error.into()),
            None => Ok(told),
        }
    }

    fn next(&self, object: &Object, outcome: &Outcome, now: Timestamp) -> Status {
        status(object, outcome, self.operator.share, now)
    }
}

/// What is worth an event: something went wrong, or the agents have it.
fn news<'a>(before: &Status, after: &'a Status) -> Option<(bool, &'a str, &'a str)> {
    let degraded = after.condition("Degraded").filter(|_| after.is("Degraded"));
    if let Some(degraded) = degraded {
        let same = before.is("Degraded")
            && before.condition("Degraded").map(|it| &it.message) == Some(&degraded.message);
        return (!same).then_some((false, degraded.reason.as_str(), degraded.message.as_str()));
    }
    let ready = after.condition("Ready").filter(|_| after.is("Ready") && !before.is("Ready"))?;
    Some((true, ready.reason.as_str(), ready.message.as_str()))
}

#[cfg(test)]
mod tests;
