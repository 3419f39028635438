//! What the tests of the chart stand on: Helm, kubeconform, and a real Kubernetes control plane whose nodes are kwok's.
//!
//! `make test-cluster` builds the programs. Where one is missing, a test says so and passes, unless `CI` is set.

mod chart;
mod check;
mod draw;
mod edges;
mod host;
mod objects;
mod plane;
mod ports;
mod references;
mod request;
mod rights;
mod schemas;
mod tools;

pub use chart::{Chart, Refused, chart_dir, root};
pub use check::problems;
pub use draw::Draw;
pub use edges::{documented, rendered};
pub use host::{Host, NODE, Pod, Secrets};
pub use objects::{Objects, containers, pod_of};
pub use plane::{NAMESPACE, Plane};
pub use ports::free_port;
pub use request::request;
pub use rights::{Asked, Right, bindings, granted, settle, sufficient, unused};
pub use schemas::{Schemas, shared_definitions};
pub use tools::{have, tool};
