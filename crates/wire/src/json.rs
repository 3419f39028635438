//! The JSON form of protobuf messages (ProtoJSON), for `-o json` and for logs.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::document;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::DESCRIPTORS)
        .expect("the committed descriptors are valid: a test compiles them")
});

/// The message as JSON: lowerCamelCase names, enums as names, durations as "60s", default values left out.
///
/// # Panics
/// Never for messages of `proto/`: their descriptors are part of this crate.
pub fn to_json<M: prost::Message + prost::Name>(message: &M) -> Value {
    let descriptor =
        POOL.get_message_by_name(&M::full_name()).expect("every message of proto/ has a descriptor");
    let dynamic = DynamicMessage::decode(descriptor, &message.encode_to_vec()[..])
        .expect("a message decodes under its own descriptor");
    let mut json = dynamic
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .expect("messages of proto/ have a JSON form: finite numbers, known types");
    whole_numbers(&mut json);
    json
}

/// Reads the JSON form of a message; names that it does not have are refused.
///
/// # Errors
/// For people, after the words "it is not one because".
///
/// # Panics
/// Never for messages of `proto/`: their descriptors are part of this crate.
pub fn from_json<M: prost::Message + prost::Name + Default>(json: Value) -> Result<M, String> {
    let descriptor =
        POOL.get_message_by_name(&M::full_name()).expect("every message of proto/ has a descriptor");
    let dynamic = DynamicMessage::deserialize(descriptor, json).map_err(|error| error.to_string())?;
    dynamic.transcode_to().map_err(|error| error.to_string())
}

/// Protobuf carries the numbers of documents as doubles; people wrote `1`, not `1.0`.
fn whole_numbers(json: &mut Value) {
    match json {
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).and_then(document::whole) {
                *number = whole;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api::v1::{Group, Mode, Policy, Settings};

    #[test]
    fn messages_have_the_documented_json_form() {
        let group = Group {
            name: "web".into(),
            settings: Some(Settings {
                mode: Some(Mode::Push.into()),
                heartbeat_interval: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
                ..Settings::default()
            }),
            revision: 7,
            ..Group::default()
        };
        assert_eq!(
            super::to_json(&group),
            json!({"name": "web", "settings": {"mode": "PUSH", "heartbeatInterval": "90s"}, "revision": "7"})
        );
    }

    #[test]
    fn numbers_of_documents_are_printed_as_they_were_written() {
        let document = json!({"whole": 1, "part": 1.5, "list": [2, {"three": -3}]});
        let policy = Policy { document: crate::document::to_struct(&document).unwrap(), ..Policy::default() };
        let printed = super::to_json(&policy)["document"].to_string();
        assert_eq!(printed, r#"{"list":[2,{"three":-3}],"part":1.5,"whole":1}"#);
    }
}
