//! The chart: what it renders to, what it refuses, and what a real Kubernetes control plane makes of it; and what a real
//! OpenTelemetry collector hears of a fleet.

#[cfg(test)]
mod blocks;
#[cfg(test)]
mod bootstrap;
#[cfg(test)]
mod cert_manager;
#[cfg(test)]
mod charts;
#[cfg(test)]
mod collector;
#[cfg(test)]
mod collector_tls;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod content_release;
#[cfg(test)]
mod crds;
#[cfg(test)]
mod external_nats;
#[cfg(test)]
mod install;
#[cfg(test)]
mod managers;
#[cfg(test)]
mod node_agents;
#[cfg(test)]
mod object_store;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod operator_pod;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod references;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod release;
#[cfg(test)]
mod render;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod scrape;
#[cfg(test)]
mod series;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod umbrella;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod values;
#[cfg(test)]
mod web_socket;
