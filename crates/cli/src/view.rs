//! Messages as text for people. Every view is a function from a message to text.

pub(crate) mod agent;
pub(crate) mod api_token;
pub(crate) mod audit;
pub(crate) mod change;
pub(crate) mod content;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod group;
pub(crate) mod key;
pub(crate) mod policy;
pub(crate) mod status;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod token;
pub(crate) mod trace;
