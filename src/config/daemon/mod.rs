//! Settings of `cachectld`: `cachectld.toml`, then the environment, then flags; the same code as for the CLI, with another table.

pub mod address;
mod grants;
pub mod keys;
mod load;
pub mod policy;
mod settings;

pub use keys::TABLE;
pub use load::{Change, FILE_NAME, load};
pub use settings::{Config, Group, LogFormat, Otlp, Socket, parts::Tls};
