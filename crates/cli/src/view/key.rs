//! Trust roots and the keys in them.

use domain::trust::{PublicKey, RoleName, Root};
use prost_types::Timestamp;
use wire::agent::v1::Envelope;
use wire::sign::key_text;

use super::style::{Style, Tone};
use super::table::{Cell, Table};
use super::text;

fn time(at: domain::Timestamp) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    text::time(Some(&Timestamp { seconds, nanos: 0 }))
}

/// A root: its keys by role, and where an envelope is given, which of them have signed it. `before` is the root it
/// follows.
pub(crate) fn root(root: &Root, signed: Option<(&Envelope, Option<&Root>)>, style: Style) -> String {
    let mut head = Table::fields();
    head.field("Trust root", root.version.to_string());
    head.field("Fleet", root.fleet.to_string());
    head.field("Issued", time(root.issued_at));
    let tone = if root.expires_at <= style.now { Tone::Bad } else { Tone::Plain };
    head.field("Expires", Cell::toned(time(root.expires_at), tone));
    let mut table = Table::new(&["ROLE", "NEEDED", "KEY", "SIGNED"]);
    for name in RoleName::ALL {
        rows(&mut table, (&name.to_string(), root, name), signed.map(|(envelope, _)| envelope));
    }
    if let Some((envelope, Some(before))) = signed {
        rows(&mut table, ("root before it", before, RoleName::Root), Some(envelope));
    }
    format!("{}\n{}", head.render(style), table.render(style))
}

fn rows(table: &mut Table, (label, root, name): (&str, &Root, RoleName), signed: Option<&Envelope>) {
    let role = root.role(name);
    let by =
        signed.filter(|_| name == RoleName::Root).map(|envelope| wire::root::signers(envelope, role.keys()));
    for key in role.keys() {
        let said = match &by {
            None => Cell::quiet("-"),
            Some(by) if by.contains(key) => Cell::toned("yes", Tone::Good),
            Some(_) => Cell::quiet("no"),
        };
        let needed = format!("{} of {}", role.threshold(), role.keys().len());
        table.row([Cell::from(label), Cell::from(needed), Cell::from(key_text(key)), said]);
    }
}

/// Key files that were made.
pub(crate) fn files(made: &[(String, PublicKey)], style: Style) -> String {
    let mut table = Table::new(&["FILE", "PUBLIC KEY"]);
    for (file, key) in made {
        table.row([Cell::from(file), Cell::from(key_text(key))]);
    }
    table.render(style)
}
