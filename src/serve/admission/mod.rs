//! Admission: how much of the daemon one caller may hold, decided in one module in front of all protocols.
//!
//! - Holds: [`Pool`]s of places that are shared fairly between callers, [`Lane`]s of slow clients that hold no place.
//! - Enters: a caller's [`Key`], requests' and responses' bodies.
//! - Leaves: a [`Permit`], or [`Full`], which a protocol answers in its own terms (429, `RESOURCE_EXHAUSTED`).
//! - Deliberately absent: who a caller is (`serve::auth`), routes, error bodies, sockets.
//!
//! The rule: a shared place is held only while the daemon itself works for a request whose caller is known. While a client
//! sends slowly, or does not read, its request waits in a lane, which is bounded by dropping the client that waits longest
//! of whoever has most there.

mod key;
mod lane;
mod pool;

pub use key::Key;
pub use lane::{Lane, Parked};
pub use pool::{Full, Permit, Pool, Queue};
