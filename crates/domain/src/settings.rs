//! Communication settings of a group: how its agents learn of changes and how often they report.

use crate::time::Span;

/// How agents of a group learn of changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// The agent asks at each heartbeat.
    #[default]
    Pull,
    /// The agent holds a connection and is told at once.
    Push,
}

/// Shortest heartbeat interval. Faster beats show nothing that push does not show sooner.
pub const MIN_HEARTBEAT_INTERVAL: Span = Span::from_secs(1);
/// Longest heartbeat interval: a day; beyond it presence says nothing useful.
pub const MAX_HEARTBEAT_INTERVAL: Span = Span::from_secs(24 * 3600);
/// Longest `offline_after`: ten of the longest intervals.
pub const MAX_OFFLINE_AFTER: Span = Span::from_secs(10 * 24 * 3600);
/// Heartbeat interval of pull groups that set none.
pub const DEFAULT_PULL_INTERVAL: Span = Span::from_secs(300);
/// Heartbeat interval of push groups that set none.
pub const DEFAULT_PUSH_INTERVAL: Span = Span::from_secs(60);

/// Longest window over which downloads start: a day; new content comes more often than that.
pub const MAX_CONTENT_SPREAD: Span = Span::from_secs(24 * 3600);
/// Window over which downloads of groups start that set none.
pub const DEFAULT_CONTENT_SPREAD: Span = Span::from_secs(300);
/// Lowest limit on the rate of downloads, in bytes a second: with less, a single message of content takes
/// longer than a broker waits for a reader.
pub const MIN_CONTENT_RATE_LIMIT: u64 = 1024;
/// Highest limit on the rate of downloads, in bytes a second. No agent's network is as fast.
pub const MAX_CONTENT_RATE_LIMIT: u64 = 1 << 40;

/// What one group sets itself; what is absent is inherited from its parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettingsOverlay {
    /// Push or pull.
    pub mode: Option<Mode>,
    /// Time between heartbeats.
    pub heartbeat_interval: Option<Span>,
    /// Silence after which an agent counts as offline.
    pub offline_after: Option<Span>,
    /// Window over which agents start to download content; zero: at once.
    pub content_spread: Option<Span>,
    /// Most bytes of content each agent fetches in a second; 0: no limit, also where a group above sets one.
    pub content_rate_limit: Option<u64>,
}

/// Settings in force for a group, every value explicit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Push or pull.
    pub mode: Mode,
    /// Time between heartbeats.
    pub heartbeat_interval: Span,
    /// Silence after which an agent counts as offline.
    pub offline_after: Span,
    /// Window over which agents start to download content; zero: at once.
    pub content_spread: Span,
    /// Most bytes of content each agent fetches in a second; `None`: no limit. Never 0.
    pub content_rate_limit: Option<u64>,
}

/// Why a value of the settings is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Outside [`MIN_HEARTBEAT_INTERVAL`]..=[`MAX_HEARTBEAT_INTERVAL`].
    #[error("heartbeatInterval must be between 1s and 24h")]
    HeartbeatInterval,
    /// Shorter than the interval, or longer than [`MAX_OFFLINE_AFTER`].
    #[error("offlineAfter must be at least the heartbeat interval and at most 240h")]
    OfflineAfter,
    /// Longer than [`MAX_CONTENT_SPREAD`].
    #[error("contentSpread must be at most 24h")]
    ContentSpread,
    /// Neither 0 nor within [`MIN_CONTENT_RATE_LIMIT`]..=[`MAX_CONTENT_RATE_LIMIT`].
    #[error("contentRateLimit must be 0 (no limit) or between 1KiB and 1TiB a second")]
    ContentRateLimit,
}

impl SettingsOverlay {
    /// `self` where it says something, else `parent`.
    #[must_use]
    pub fn over(self, parent: Self) -> Self {
        Self {
            mode: self.mode.or(parent.mode),
            heartbeat_interval: self.heartbeat_interval.or(parent.heartbeat_interval),
            offline_after: self.offline_after.or(parent.offline_after),
            content_spread: self.content_spread.or(parent.content_spread),
            content_rate_limit: self.content_rate_limit.or(parent.content_rate_limit),
        }
    }

    /// Fills what nothing set with the defaults of the mode and checks the bounds. `offline_after`
    /// defaults to two and a half intervals: one lost heartbeat does not make an agent offline.
    ///
    /// # Errors
    /// [`SettingsError`] names the value that is out of bounds.
    pub fn effective(self) -> Result<Settings, SettingsError> {
        let mode = self.mode.unwrap_or_default();
        let heartbeat_interval = self.heartbeat_interval.unwrap_or(match mode {
            Mode::Pull => DEFAULT_PULL_INTERVAL,
            Mode::Push => DEFAULT_PUSH_INTERVAL,
        });
        if !(MIN_HEARTBEAT_INTERVAL..=MAX_HEARTBEAT_INTERVAL).contains(&heartbeat_interval) {
            return Err(SettingsError::HeartbeatInterval);
        }
        let offline_after = self.offline_after.unwrap_or(heartbeat_interval.scaled(5, 2));
        if !(heartbeat_interval..=MAX_OFFLINE_AFTER).contains(&offline_after) {
            return Err(SettingsError::OfflineAfter);
        }
        let content_spread = self.content_spread.unwrap_or(DEFAULT_CONTENT_SPREAD);
        if content_spread > MAX_CONTENT_SPREAD {
            return Err(SettingsError::ContentSpread);
        }
        let content_rate_limit = self.content_rate_limit.filter(|limit| *limit != 0);
        let rates = MIN_CONTENT_RATE_LIMIT..=MAX_CONTENT_RATE_LIMIT;
        if content_rate_limit.is_some_and(|limit| !rates.contains(&limit)) {
            return Err(SettingsError::ContentRateLimit);
        }
        Ok(Settings { mode, heartbeat_interval, offline_after, content_spread, content_rate_limit })
    }
}
