//! The JSON form of protobuf messages (ProtoJSON), for `-o json` and for logs.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::DESCRIPTORS)
        .expect("the committed descriptors are valid: a test compiles them")
});

/// The message as JSON: lowerCamelCase names, enums as names, durations as "60s", default values left out.
///
/// # Panics
/// Never for messages of `proto/`: their descriptors are part of this crate.
pub fn to_json<M: prost::Message + prost::Name>(message: &M) -> serde_json::Value {
    let descriptor =
        POOL.get_message_by_name(&M::full_name()).expect("every message of proto/ has a descriptor");
    let dynamic = DynamicMessage::decode(descriptor, &message.encode_to_vec()[..])
        .expect("a message decodes under its own descriptor");
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .expect("messages of proto/ have a JSON form: finite numbers, known types")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api::v1::{Group, Mode, Settings};

    #[test]
    fn messages_have_the_documented_json_form() {
        let group = Group {
            name: "web".into(),
            settings: Some(Settings {
                mode: Some(Mode::Push.into()),
                heartbeat_interval: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
                offline_after: None,
            }),
            revision: 7,
            ..Group::default()
        };
        assert_eq!(
            super::to_json(&group),
            json!({"name": "web", "settings": {"mode": "PUSH", "heartbeatInterval": "90s"}, "revision": "7"})
        );
    }
}
