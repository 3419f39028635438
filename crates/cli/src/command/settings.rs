//! `muster settings`.

use clap::{Args, Subcommand, ValueEnum};
use domain::Span;
use wire::api::v1::{Group, Mode, Settings as Message};
use wire::time::to_duration;

use super::{ModeName, group, parse_duration, parse_rate};
use crate::args::{Change, MODES};
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Communication settings of groups: push or pull, heartbeats, downloads
#[derive(Debug, Subcommand)]
pub(crate) enum Settings {
    Show(Show),
    Set(Set),
}

/// Show the settings in force for a group and where each comes from
#[derive(Debug, Args)]
#[command(after_long_help = format!("Examples:\n  muster settings show --group /servers/web\n\n{MODES}"))]
pub(crate) struct Show {
    /// Path or name of the group
    #[arg(long)]
    group: String,
}

/// Change settings of a group; what it does not set is inherited
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster settings set --group /servers --mode push\n  muster settings set --group /servers/web \
     --heartbeat-interval 30s --offline-after 2m --dry-run\n  muster settings set --group /branches --content-spread 1h \
     --content-rate-limit 2MiB/s\n  muster settings set --group /servers/web --inherit mode\n\n{MODES}"
))]
#[group(id = "what", required = true, multiple = true,
    args = ["mode", "heartbeat_interval", "offline_after", "content_spread", "content_rate_limit", "inherit"])]
pub(crate) struct Set {
    /// Path or name of the group
    #[arg(long)]
    group: String,
    /// Push or pull; agents of the group change over at once
    #[arg(long)]
    mode: Option<ModeName>,
    /// Time between heartbeats, 1s to 24h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    heartbeat_interval: Option<Span>,
    /// Silence after which an agent counts as offline: at least the interval, at most 240h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    offline_after: Option<Span>,
    /// Window over which agents start to download content, 0s to 24h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    content_spread: Option<Span>,
    /// Most bytes of content that each agent fetches in a second, e.g. 2MiB/s, or none
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    content_rate_limit: Option<u64>,
    /// Take this setting from the parent again; may be repeated
    #[arg(long, value_name = "SETTING")]
    inherit: Vec<Field>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Field {
    /// Push or pull
    Mode,
    /// Time between heartbeats
    #[value(alias = "heartbeatInterval")]
    HeartbeatInterval,
    /// Silence after which an agent counts as offline
    #[value(alias = "offlineAfter")]
    OfflineAfter,
    /// Window over which downloads start
    #[value(alias = "contentSpread")]
    ContentSpread,
    /// Most bytes in a second
    #[value(alias = "contentRateLimit")]
    ContentRateLimit,
}

impl Settings {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self {
            Self::Show(it) => {
                let group = group::get(&session.client, it.group).await?;
                session.show(&group, view::group::settings)
            }
            Self::Set(it) => it.run(session).await,
        }
    }
}

impl Set {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let fields = self.fields()?;
        let settings = Message {
            mode: self.mode.map(|mode| Mode::from(mode).into()),
            heartbeat_interval: self.heartbeat_interval.map(to_duration),
            offline_after: self.offline_after.map(to_duration),
            content_spread: self.content_spread.map(to_duration),
            content_rate_limit: self.content_rate_limit,
        };
        let (name, path) = name_or_path(self.group);
        let group = Group { name, path, settings: Some(settings), ..Group::default() };
        group::update(session, group, fields, self.change).await
    }

    /// Paths of the fields to change; a field that is named without a value is inherited.
    fn fields(&self) -> Result<Vec<String>, Failure> {
        let set = [
            (Field::Mode, "mode", self.mode.is_some()),
            (Field::HeartbeatInterval, "heartbeat_interval", self.heartbeat_interval.is_some()),
            (Field::OfflineAfter, "offline_after", self.offline_after.is_some()),
            (Field::ContentSpread, "content_spread", self.content_spread.is_some()),
            (Field::ContentRateLimit, "content_rate_limit", self.content_rate_limit.is_some()),
        ];
        let mut fields = Vec::new();
        for (field, path, is_set) in set {
            let inherited = self.inherit.contains(&field);
            if is_set && inherited {
                return Err(Failure::Usage(format!(
                    "{} cannot be set and inherited at once",
                    path.replace('_', "-")
                )));
            }
            if is_set || inherited {
                fields.push(format!("settings.{path}"));
            }
        }
        Ok(fields)
    }
}

/// A group in a message is named by the one or the other field.
fn name_or_path(group: String) -> (String, String) {
    if group.starts_with('/') { (String::new(), group) } else { (group, String::new()) }
}
