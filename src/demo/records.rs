//! The records of the stand-in.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The fields of one record.
pub(super) type Fields = Map<String, Value>;

/// The records of a workspace, by collection and id. Deleted records are kept so that they can be restored.
#[derive(Debug)]
pub(super) struct Records {
    collections: BTreeMap<&'static str, BTreeMap<u64, Record>>,
    /// The settings of the workspace.
    pub(super) instance: Fields,
}

#[derive(Debug)]
struct Record {
    fields: Fields,
    deleted: bool,
}

impl Records {
    /// Creates a small sample workspace.
    pub(super) fn sample() -> Self {
        let mut records = Self {
            collections: BTreeMap::new(),
            instance: fields(json!({"id": 1, "name": "Demo Rentals", "currency": "EUR"})),
        };
        for (collection, samples) in [
            (
                "items",
                json!([
                    {"name": "Hammer drill", "code": "DRILL-01", "type_id": 1, "stock": 4},
                    {"name": "Pressure washer", "code": "WASH-01", "type_id": 1, "stock": 2},
                    {"name": "Party tent 6 x 3 m", "code": "TENT-01", "type_id": 2, "stock": 1},
                ]),
            ),
            ("variants", json!([{"item_id": 3, "name": "white", "code": "TENT-01-W"}])),
            ("types", json!([{"name": "Tools"}, {"name": "Events"}])),
            ("tags", json!([{"name": "heavy"}])),
            ("renters", json!([{"name": "Grace Hopper", "email": "grace@example.com"}])),
            ("rentals", json!([{"item_id": 1, "renter_id": 1, "status": "out", "due_on": "2027-01-15"}])),
            ("webhooks", json!([{"url": "https://example.com/stockaj", "events": ["rental.returned"]}])),
            ("notifications", json!([{"title": "Hammer drill is due", "read": false}])),
        ] {
            records.collections.insert(collection, BTreeMap::new());
            for sample in samples.as_array().into_iter().flatten() {
                records.create(collection, fields(sample.clone()));
            }
        }
        records
    }

    /// Whether the collection exists.
    pub(super) fn has(&self, collection: &str) -> bool {
        self.collections.contains_key(collection)
    }

    /// The records of a collection in the order of their ids, without deleted ones.
    pub(super) fn all(&self, collection: &str) -> impl Iterator<Item = &Fields> {
        let records = self.collections.get(collection).into_iter().flat_map(BTreeMap::values);
        records.filter(|record| !record.deleted).map(|record| &record.fields)
    }

    /// Finds a record that is not deleted.
    pub(super) fn find(&mut self, collection: &str, id: &str) -> Option<&mut Fields> {
        let record = self.record(collection, id)?;
        (!record.deleted).then_some(&mut record.fields)
    }

    /// Creates a record with the next id. Returns `None` if the collection does not exist.
    pub(super) fn create(&mut self, collection: &str, fields: Fields) -> Option<&Fields> {
        let records = self.collections.get_mut(collection)?;
        let id = records.last_key_value().map_or(1, |(last, _)| last + 1);
        let mut record = Record { fields: Map::from_iter([("id".to_owned(), id.into())]), deleted: false };
        merge(&mut record.fields, fields);
        Some(&records.entry(id).or_insert(record).fields)
    }

    /// Deletes a record. Returns whether it existed.
    pub(super) fn delete(&mut self, collection: &str, id: &str) -> bool {
        let record = self.record(collection, id).filter(|record| !record.deleted);
        record.map(|record| record.deleted = true).is_some()
    }

    /// Restores a deleted record. A record that is not deleted stays unchanged.
    pub(super) fn restore(&mut self, collection: &str, id: &str) -> Option<&Fields> {
        let record = self.record(collection, id)?;
        record.deleted = false;
        Some(&record.fields)
    }

    fn record(&mut self, collection: &str, id: &str) -> Option<&mut Record> {
        self.collections.get_mut(collection)?.get_mut(&id.parse().ok()?)
    }
}

/// Overwrites fields with those of a request, except the id, which clients cannot choose.
pub(super) fn merge(fields: &mut Fields, changes: Fields) {
    fields.extend(changes.into_iter().filter(|(name, _)| name != "id"));
}

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}
