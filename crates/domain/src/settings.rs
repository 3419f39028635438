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

/// What one group sets itself; what is absent is inherited from its parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SettingsOverlay {
    /// Push or pull.
    pub mode: Option<Mode>,
    /// Time between heartbeats.
    pub heartbeat_interval: Option<Span>,
    /// Silence after which an agent counts as offline.
    pub offline_after: Option<Span>,
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
}

impl SettingsOverlay {
    /// `self` where it says something, else `parent`.
    #[must_use]
    pub fn over(self, parent: Self) -> Self {
        Self {
            mode: self.mode.or(parent.mode),
            heartbeat_interval: self.heartbeat_interval.or(parent.heartbeat_interval),
            offline_after: self.offline_after.or(parent.offline_after),
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
        Ok(Settings { mode, heartbeat_interval, offline_after })
    }
}
