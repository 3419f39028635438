//! Random values that a schema allows.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, Value};

/// Draws from a schema. Where a value has a pattern or no form at all, the schema gives `examples` to choose from.
pub struct Draw {
    random: StdRng,
    /// One in so many properties is drawn; the others keep their default.
    sparse: u32,
}

impl Draw {
    /// The same seed draws the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), sparse: 4 }
    }

    /// Values for a schema.
    ///
    /// # Panics
    /// If the schema has a form that this does not know.
    #[must_use]
    pub fn values(&mut self, schema: &Value) -> Value {
        self.draw(schema, schema)
    }

    fn draw(&mut self, schema: &Value, root: &Value) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let target = root.pointer(pointer).unwrap_or_else(|| panic!("the schema has no {reference}"));
            return self.draw(target, root);
        }
        for choices in [&schema["examples"], &schema["enum"]] {
            if let Some(choices) = choices.as_array().filter(|choices| !choices.is_empty()) {
                return choices.choose(&mut self.random).cloned().unwrap_or_default();
            }
        }
        match schema["type"].as_str() {
            Some("boolean") => self.random.random::<bool>().into(),
            Some("integer") => {
                let bound = |key: &str| schema[key].as_i64().unwrap_or_else(|| panic!("no {key}: {schema}"));
                // Small ones are the more interesting ones, and those that fit beside each other.
                let (low, high) = (bound("minimum"), bound("maximum"));
                self.random.random_range(low..=high.min(low + 20)).into()
            }
            Some("array") => {
                let length = self.random.random_range(0..3);
                (0..length).map(|_| self.draw(&schema["items"], root)).collect()
            }
            Some("object") => self.object(schema, root),
            _ => panic!("a schema of a form that nothing is drawn from: {schema}"),
        }
    }

    fn object(&mut self, schema: &Value, root: &Value) -> Value {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut drawn = Map::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if required.contains(&name.as_str()) || self.random.random_ratio(1, self.sparse) {
                drawn.insert(name.clone(), self.draw(property, root));
            }
        }
        drawn.into()
    }
}
