//! Every method of the API has a row in the table of who may use it, and every row a method (T22).

use std::collections::BTreeSet;

use domain::access::METHODS;
use prost::Message as _;

/// The package whose methods callers use.
const PACKAGE: &str = "muster.api.v1";

#[test]
fn every_method_has_a_row_and_every_row_a_method() {
    let set = prost_types::FileDescriptorSet::decode(wire::DESCRIPTORS).expect("the descriptors are right");
    let mut methods = BTreeSet::new();
    for file in &set.file {
        assert!(file.service.is_empty() || file.package() == PACKAGE, "{} has services too", file.package());
        for service in &file.service {
            let name = |method: &str| format!("{PACKAGE}.{}/{method}", service.name());
            methods.extend(service.method.iter().map(|method| name(method.name())));
        }
    }
    let rows: BTreeSet<String> = METHODS.iter().map(|row| row.name.to_owned()).collect();
    let without_row: Vec<_> = methods.difference(&rows).collect();
    let without_method: Vec<_> = rows.difference(&methods).collect();
    assert!(
        without_row.is_empty(),
        "crates/domain/src/access/methods.rs says not who may use {without_row:?}"
    );
    assert!(
        without_method.is_empty(),
        "crates/domain/src/access/methods.rs has too much: {without_method:?}"
    );
    assert!(methods.len() > 40, "found only {methods:?}");
}
