//! Bounds the work of validating one document by one schema, before it is done.
//!
//! Small schemas can ask for an exponential number of steps (definitions that refer twice to the next)
//! or for endless ones (a reference to itself). The walk here visits what a validator visits when nothing
//! lets it stop early, counts, and gives up at a bound: what passes it is cheap to validate.

use serde_json::{Map, Value};

use super::rules;

/// Most steps of one validation: some tens of milliseconds. A document of 10,000 values that each meet ten
/// keywords takes a tenth of it.
pub(super) const MAX_STEPS: u64 = 1_000_000;
/// Deepest nesting of schemas applied to one document: each level costs the validator some stack.
pub(super) const MAX_LEVELS: usize = 192;

/// The validation would be too much work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exhausted {
    /// More than [`MAX_STEPS`].
    #[error("takes more than {MAX_STEPS} steps to validate by this schema")]
    Steps,
    /// More than [`MAX_LEVELS`].
    #[error("nests the schema more than {MAX_LEVELS} levels deep, or refers to itself without end")]
    Levels,
}

pub(super) struct Budget<'a> {
    root: &'a Value,
    steps: u64,
    levels: usize,
}

impl<'a> Budget<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        Self { root, steps: 0, levels: 0 }
    }

    /// Walks the whole validation of `document`.
    pub(super) fn walk(&mut self, document: &Value) -> Result<(), Exhausted> {
        self.apply(self.root, document)
    }

    fn spend(&mut self, steps: usize) -> Result<(), Exhausted> {
        self.steps = self.steps.saturating_add(steps as u64);
        if self.steps > MAX_STEPS { Err(Exhausted::Steps) } else { Ok(()) }
    }

    fn apply(&mut self, schema: &'a Value, value: &Value) -> Result<(), Exhausted> {
        self.spend(1)?;
        let Value::Object(keywords) = schema else { return Ok(()) };
        if self.levels == MAX_LEVELS {
            return Err(Exhausted::Levels);
        }
        self.levels += 1;
        let before = self.steps;
        self.own(keywords, value)?;
        self.in_place(keywords, value)?;
        // To know what is left unevaluated, a validator asks the schemas in place again for each member.
        if keywords.contains_key("unevaluatedProperties") || keywords.contains_key("unevaluatedItems") {
            let again = (self.steps - before).saturating_mul(1 + children(value) as u64);
            self.spend(usize::try_from(again).unwrap_or(usize::MAX))?;
        }
        match value {
            Value::Object(members) => self.members(keywords, members)?,
            Value::Array(items) => self.items(keywords, items)?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        self.levels -= 1;
        Ok(())
    }

    /// Keywords that look at the value itself.
    fn own(&mut self, keywords: &Map<String, Value>, value: &Value) -> Result<(), Exhausted> {
        self.spend(keywords.len())?;
        for list in ["enum", "required"] {
            self.spend(keywords.get(list).and_then(Value::as_array).map_or(0, Vec::len))?;
        }
        if let Value::String(text) = value {
            self.spend(text.len() / 64)?;
            self.spend(if keywords.contains_key("pattern") { text.len() } else { 0 })?;
        }
        self.spend(if keywords.contains_key("uniqueItems") { children(value) } else { 0 })
    }

    /// Schemas that apply to the same value.
    fn in_place(&mut self, keywords: &'a Map<String, Value>, value: &Value) -> Result<(), Exhausted> {
        for keyword in rules::IN_PLACE {
            if let Some(schema) = keywords.get(keyword) {
                self.apply(schema, value)?;
            }
        }
        for keyword in rules::IN_PLACE_LISTS {
            for schema in keywords.get(keyword).and_then(Value::as_array).into_iter().flatten() {
                self.apply(schema, value)?;
            }
        }
        for schema in keywords.get("dependentSchemas").and_then(Value::as_object).into_iter().flatten() {
            self.apply(schema.1, value)?;
        }
        let reference = keywords.get("$ref").and_then(Value::as_str);
        match reference.and_then(|reference| rules::target(self.root, reference)) {
            Some(schema) => self.apply(schema, value),
            None => Ok(()),
        }
    }

    fn members(
        &mut self,
        keywords: &'a Map<String, Value>,
        members: &Map<String, Value>,
    ) -> Result<(), Exhausted> {
        let named = keywords.get("properties").and_then(Value::as_object);
        let patterns = keywords.get("patternProperties").and_then(Value::as_object);
        let others: Vec<&'a Value> = ["additionalProperties", "unevaluatedProperties"]
            .into_iter()
            .filter_map(|keyword| keywords.get(keyword))
            .collect();
        let names = keywords.get("propertyNames");
        for (name, value) in members {
            self.spend(1)?;
            let exact = named.and_then(|schemas| schemas.get(name));
            for (_, schema) in patterns.into_iter().flatten() {
                self.spend(name.len())?;
                self.apply(schema, value)?;
            }
            for schema in exact.into_iter().chain(others.iter().copied()) {
                self.apply(schema, value)?;
            }
            if let Some(schema) = names {
                self.apply(schema, &Value::String(name.clone()))?;
            }
        }
        Ok(())
    }

    fn items(&mut self, keywords: &'a Map<String, Value>, items: &[Value]) -> Result<(), Exhausted> {
        let prefix = keywords.get("prefixItems").and_then(Value::as_array);
        let each: Vec<&'a Value> = ["items", "contains", "unevaluatedItems"]
            .into_iter()
            .filter_map(|keyword| keywords.get(keyword))
            .collect();
        for (index, value) in items.iter().enumerate() {
            self.spend(1)?;
            let own = prefix.and_then(|schemas| schemas.get(index));
            for schema in own.into_iter().chain(each.iter().copied()) {
                self.apply(schema, value)?;
            }
        }
        Ok(())
    }
}

fn children(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.len(),
        Value::Array(items) => items.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}
