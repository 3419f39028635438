//! Whether online agents hold the content that is assigned to them.
//!
//! What is assigned is asked of the policies and not of the agents: an agent that has not heard of a new revision yet
//! would say that it has everything.

use std::collections::BTreeMap;
use std::fmt;

use wire::api::v1::{Agent, AgentFilter, EffectiveContent, ListGroupsRequest, PresenceState};

use super::{MAX_NAMED, agent};
use crate::client::{Client, Pages};
use crate::failure::Failure;

/// Some agents, the first few with what is the matter.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) count: u64,
    named: Vec<String>,
}

impl Named {
    fn add(&mut self, agent: &Agent, what: &str) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(format!("{} ({what})", agent.name));
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.named.join(", "))?;
        let more = self.count - u64::try_from(self.named.len()).unwrap_or(self.count);
        if more > 0 { write!(f, ", and {more} more") } else { Ok(()) }
    }
}

/// Where the online agents of a group, and of those below it, stand.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) online: u64,
    /// Those without some of their content.
    pub(super) lacking: Named,
    /// Those on which what is assigned failed.
    pub(super) failed: Named,
}

/// Asks what is assigned and who holds it.
pub(super) async fn survey(client: &Client, group: &str) -> Result<Survey, Failure> {
    let groups = Pages::of_small(None)
        .fetch(|page_size, page_token| async move {
            let under = group.to_owned();
            let request = ListGroupsRequest { under, page_size, page_token, min_revision: 0 };
            let page = client.policy().list_groups(request).await;
            let page = page.map_err(|status| client.refusal(status))?.into_inner();
            Ok((page.groups, page.next_page_token))
        })
        .await?;
    let assigned = groups.into_iter().map(|group| (group.path, group.effective_content)).collect();
    let filter = AgentFilter {
        group: group.to_owned(),
        include_children: true,
        states: vec![PresenceState::Online.into()],
        ..AgentFilter::default()
    };
    Ok(judge(&assigned, &agent::list(client, filter, None).await?.agents))
}

fn judge(assigned: &BTreeMap<String, Vec<EffectiveContent>>, agents: &[Agent]) -> Survey {
    let mut survey = Survey::default();
    for agent in agents {
        survey.online += 1;
        let wanted = assigned.get(&agent.group).into_iter().flatten();
        let stands: Vec<(Stand, String)> =
            wanted.filter(|content| content.revision != 0).map(|content| stand(agent, content)).collect();
        let find = |wanted| stands.iter().find(|(stand, _)| *stand == wanted).map(|(_, what)| what);
        match (find(Stand::Failed), find(Stand::Lacks)) {
            (Some(what), _) => survey.failed.add(agent, what),
            (None, Some(what)) => survey.lacking.add(agent, what),
            (None, None) => {}
        }
    }
    survey
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Holds,
    Lacks,
    Failed,
}

/// Where an agent stands with one content, and that in words.
fn stand(agent: &Agent, content: &EffectiveContent) -> (Stand, String) {
    let channel = content.reference.as_ref().map(|it| it.channel.as_str()).unwrap_or_default();
    let name = format!("{channel} {}", content.revision);
    let Some(state) = agent.content.iter().find(|state| state.channel == channel) else {
        return (Stand::Lacks, name);
    };
    let knows = state.wanted == content.revision;
    match state.state.as_str() {
        "failed" if knows => (Stand::Failed, format!("{name}: {}", state.reason)),
        "healthy" if knows && state.active == content.revision => (Stand::Holds, name),
        "received" if knows => (Stand::Lacks, format!("{name}: {} %", state.percent.min(100))),
        _ => (Stand::Lacks, name),
    }
}

#[cfg(test)]
mod tests {
    use wire::api::v1::{AgentContent, ContentReference};

    use super::*;

    fn agent(name: &str, group: &str, states: &[(&str, u32, u32, &str)]) -> Agent {
        let content = |(channel, active, wanted, state): &(&str, u32, u32, &str)| AgentContent {
            channel: (*channel).into(),
            active: *active,
            wanted: *wanted,
            state: (*state).into(),
            percent: 40,
            reason: "disk full".into(),
            ..AgentContent::default()
        };
        let content = states.iter().map(content).collect();
        Agent { name: name.into(), group: group.into(), content, ..Agent::default() }
    }

    #[test]
    fn agents_hold_what_their_group_is_assigned_and_nothing_else_counts() {
        let content = |channel: &str, revision| EffectiveContent {
            reference: Some(ContentReference { channel: channel.into(), which: None }),
            revision,
            set_by: "/".into(),
        };
        let assigned: BTreeMap<String, Vec<EffectiveContent>> =
            [("/a".to_owned(), vec![content("x", 2), content("y", 0)]), ("/b".to_owned(), vec![])].into();
        let check = |agents: &[Agent], lacking: &str, failed: &str| {
            let survey = judge(&assigned, agents);
            assert_eq!(
                (survey.lacking.to_string().as_str(), survey.failed.to_string().as_str()),
                (lacking, failed)
            );
            assert_eq!(survey.online, u64::try_from(agents.len()).unwrap());
        };
        check(&[agent("1", "/a", &[("x", 2, 2, "healthy")]), agent("2", "/b", &[])], "", "");
        check(&[agent("1", "/a", &[])], "1 (x 2)", "");
        // It has not heard of revision 2 yet, and what failed is another one.
        check(&[agent("1", "/a", &[("x", 1, 1, "healthy")])], "1 (x 2)", "");
        check(&[agent("1", "/a", &[("x", 0, 1, "failed")])], "1 (x 2)", "");
        check(&[agent("1", "/a", &[("x", 1, 2, "received")])], "1 (x 2: 40 %)", "");
        check(&[agent("1", "/a", &[("x", 2, 2, "applied")])], "1 (x 2)", "");
        check(
            &[agent("1", "/a", &[("x", 1, 2, "failed")]), agent("2", "/a", &[])],
            "2 (x 2)",
            "1 (x 2: disk full)",
        );
        let many: Vec<Agent> = (0..7).map(|n| agent(&n.to_string(), "/a", &[])).collect();
        check(&many, "0 (x 2), 1 (x 2), 2 (x 2), 3 (x 2), 4 (x 2), and 2 more", "");
    }
}
