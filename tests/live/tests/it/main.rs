//! Live tests: real broker, real services, real agents, real CLI. One binary, so that it is linked once.

mod access;
mod audit;
mod backups;
mod canary;
mod catch_up;
mod content;
mod crashes;
mod delivery;
mod fleets;
mod laptop;
mod moves;
mod oidc;
mod refusals;
mod replicas;
mod seed;
mod starts;
mod tls;
mod tour;
mod trust;
