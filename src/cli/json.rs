//! `--json`: the objects of `docs/cli.md`. Fields are added, never renamed or removed.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    error::{CommandError, Result},
    output,
};
use crate::ops::{json::ms, list};

/// The object of one command.
pub(crate) struct Object(Map<String, Value>);

impl Object {
    /// The fields of every object, so that a script need not know which command it ran: nothing is transferred unless [`Object::with`] says
    /// otherwise.
    pub(crate) fn new(command: &str, hit: bool, elapsed: Duration) -> Self {
        Self(Map::new()).with(json!({
            "command": command,
            "hit": hit,
            "digest": null,
            "entries": 0,
            "bytes": 0,
            "blobs_moved": 0,
            "bytes_moved": 0,
            "bytes_saved": 0,
            "elapsed_ms": ms(elapsed),
        }))
    }

    /// Adds fields; a later field replaces an earlier one of the same name.
    pub(crate) fn with(mut self, fields: impl Serialize) -> Self {
        match serde_json::to_value(fields) {
            Ok(Value::Object(fields)) => self.0.extend(fields),
            other => unreachable!("reports are objects of plain fields: {other:?}"),
        }
        self
    }

    /// Prints it on standard output.
    pub(crate) fn print(self) -> Result<()> {
        output::object(&self.into())
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

/// The common fields of a list: the first digest, and the sums.
pub(crate) fn sums<'a>(rows: impl Iterator<Item = &'a list::Row> + Clone) -> Value {
    json!({
        "digest": rows.clone().next().map(|r| r.digest),
        "entries": rows.clone().map(|r| r.entries).sum::<u64>(),
        "bytes": rows.map(|r| r.bytes).fold(0, u64::saturating_add),
    })
}

/// A command that failed.
pub(crate) fn error(e: &CommandError) -> Value {
    json!({"error": {
        "message": e.message,
        "causes": e.causes,
        "hints": e.hints,
        "exit_code": e.kind.code(),
    }})
}
