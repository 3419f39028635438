//! What a request of the API is about, in names: read from any request by its descriptor.

use std::sync::LazyLock;

use domain::audit::{MAX_TARGETS, MAX_TEXT_BYTES};
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::DESCRIPTORS)
        .expect("the committed descriptors are valid: a test compiles them")
});

/// Fields that name things. Documents, reasons and secrets are in none of them.
const FIELDS: [&str; 11] =
    ["name", "path", "group", "agent", "channel", "stage", "label", "to", "kind", "revision", "manager"];
/// How deep names stand in a request: an object, in a resource, in a request, and one to spare.
const MAX_DEPTH: usize = 4;

/// Names in a request: `group=/servers/web`. `body` is the body of a gRPC call: one message in its frame. None if
/// it cannot be read; then the service refuses it as well.
#[must_use]
pub fn targets(method: &str, body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(message) = request(method, body) {
        collect(&message, MAX_DEPTH, &mut found);
    }
    found
}

fn request(method: &str, body: &[u8]) -> Option<DynamicMessage> {
    let (service, method) = method.split_once('/')?;
    let service = POOL.get_service_by_name(service)?;
    let method = service.methods().find(|it| it.name() == method)?;
    let (head, rest) = body.split_first_chunk::<5>()?;
    let length = usize::try_from(u32::from_be_bytes([head[1], head[2], head[3], head[4]])).ok()?;
    // A compressed message is none that the services take.
    let message = rest.get(..length).filter(|_| head[0] == 0)?;
    DynamicMessage::decode(method.input(), message).ok()
}

fn collect(message: &DynamicMessage, depth: usize, found: &mut Vec<String>) {
    if depth == 0 {
        return;
    }
    for field in message.descriptor().fields().filter(|field| message.has_field(field)) {
        let value = message.get_field(&field);
        take(field.name(), &value, depth, found);
    }
}

fn take(name: &str, value: &Value, depth: usize, found: &mut Vec<String>) {
    if found.len() >= MAX_TARGETS {
        return;
    }
    let named = FIELDS.contains(&name);
    match value {
        Value::Message(inner) if inner.descriptor().package_name().starts_with("muster.") => {
            collect(inner, depth - 1, found);
        }
        Value::List(items) => items.iter().for_each(|item| take(name, item, depth, found)),
        Value::String(text) if named && !text.is_empty() => {
            found.push(format!("{name}={}", &text[..text.floor_char_boundary(MAX_TEXT_BYTES - 32)]));
        }
        Value::U32(number) if named => found.push(format!("{name}={number}")),
        Value::U64(number) if named => found.push(format!("{name}={number}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0][..], &length, message].concat()
    }

    /// `field: text` as protobuf writes it.
    fn text(field: u8, text: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2, u8::try_from(text.len()).unwrap()][..], text].concat()
    }

    #[test]
    fn names_are_found_and_documents_are_not() {
        let moved = [text(1, b"web-1"), text(2, b"/servers")].concat();
        let method = "muster.api.v1.IdentityService/MoveAgent";
        assert_eq!(targets(method, &framed(&moved)), ["agent=web-1", "group=/servers"]);
        // An apply of a policy with a document that is a secret.
        let value = text(3, b"hunter2");
        let entry = [text(1, b"name"), text(2, &value)].concat();
        let document = text(1, &entry);
        let policy = [text(1, b"p"), text(2, b"app"), text(3, &document)].concat();
        let apply = [text(1, &text(3, &policy)), text(3, b"why")].concat();
        assert_eq!(targets("muster.api.v1.PolicyService/Apply", &framed(&apply)), ["name=p", "kind=app"]);
    }

    #[test]
    fn what_cannot_be_read_names_nothing() {
        let method = "muster.api.v1.IdentityService/MoveAgent";
        for body in
            [&b""[..], b"\x00", b"\x01\x00\x00\x00\x00", b"\x00\xff\xff\xff\xff", b"\x00\x00\x00\x00\x01\xff"]
        {
            assert_eq!(targets(method, body), [] as [&str; 0]);
        }
        assert_eq!(targets("x", &framed(b"")), [] as [&str; 0]);
    }

    proptest::proptest! {
        #[test]
        fn no_request_makes_it_panic(bytes in proptest::collection::vec(0u8.., 0..300)) {
            let found = targets("muster.api.v1.PolicyService/Apply", &framed(&bytes));
            proptest::prop_assert!(found.len() <= MAX_TARGETS);
        }
    }
}
