//! Plain values and their representation in the schema: defined once, for both directions.

use std::time::Duration;

use super::{Nonsense, v1};
use crate::{digest::Digest, entry::Time};

/// A value that is sent over the wire as a `W`.
pub trait Wire<W>: Sized {
    /// What is sent.
    fn into_wire(self) -> W;

    /// Converts back.
    ///
    /// # Errors
    /// When the value is invalid although the schema allows it, such as a text that is not a digest.
    fn from_wire(wire: W) -> Result<Self, Nonsense>;
}

/// Maps the fields of a struct to those of its message, once: fields of the same name; fields that the message names differently; fields of
/// a part (`with`) that the message has beside its own; fields that are not sent (`without`).
macro_rules! wire {
    (
        $own:path = $message:ident {
            $($same:ident),*
            $(; $($field:ident as $wire:ident),+)?
        }
        $(with $($group:ident: $part:ident { $($inner:ident as $outer:ident),+ }),+)?
        $(without $($local:ident),+)?
    ) => {
        impl Wire<v1::$message> for $own {
            fn into_wire(self) -> v1::$message {
                v1::$message {
                    $($same: self.$same.into_wire(),)*
                    $($($wire: self.$field.into_wire(),)+)?
                    $($($($outer: self.$group.$inner.into_wire(),)+)+)?
                }
            }

            fn from_wire(wire: v1::$message) -> Result<Self, Nonsense> {
                Ok(Self {
                    $($same: Wire::from_wire(wire.$same)?,)*
                    $($($field: Wire::from_wire(wire.$wire)?,)+)?
                    $($($group: $part { $($inner: Wire::from_wire(wire.$outer)?,)+ },)+)?
                    $($($local: Default::default(),)+)?
                })
            }
        }
    };
}
pub(super) use wire;

macro_rules! as_it_is {
    ($($plain:ty),+) => {$(
        impl Wire<Self> for $plain {
            fn into_wire(self) -> Self {
                self
            }

            fn from_wire(wire: Self) -> Result<Self, Nonsense> {
                Ok(wire)
            }
        }
    )+};
}
as_it_is!(bool, u32, u64, String);

impl<W, T: Wire<W>> Wire<Vec<W>> for Vec<T> {
    fn into_wire(self) -> Vec<W> {
        self.into_iter().map(T::into_wire).collect()
    }

    fn from_wire(wire: Vec<W>) -> Result<Self, Nonsense> {
        wire.into_iter().map(T::from_wire).collect()
    }
}

impl<W, T: Wire<W>> Wire<Option<W>> for Option<T> {
    fn into_wire(self) -> Option<W> {
        self.map(T::into_wire)
    }

    fn from_wire(wire: Option<W>) -> Result<Self, Nonsense> {
        wire.map(T::from_wire).transpose()
    }
}

impl Wire<String> for Digest {
    fn into_wire(self) -> String {
        self.to_string()
    }

    fn from_wire(wire: String) -> Result<Self, Nonsense> {
        let refused = |_| Nonsense(format!("`{}` is not a digest", wire.escape_debug()));
        wire.parse().map_err(refused)
    }
}

impl Wire<u64> for usize {
    fn into_wire(self) -> u64 {
        self as u64
    }

    fn from_wire(wire: u64) -> Result<Self, Nonsense> {
        Ok(Self::try_from(wire).unwrap_or(Self::MAX))
    }
}

/// Whole seconds.
impl Wire<u64> for Duration {
    fn into_wire(self) -> u64 {
        self.as_secs()
    }

    fn from_wire(wire: u64) -> Result<Self, Nonsense> {
        Ok(Self::from_secs(wire))
    }
}

/// Whole seconds since 1970.
impl Wire<i64> for Time {
    fn into_wire(self) -> i64 {
        self.secs
    }

    fn from_wire(secs: i64) -> Result<Self, Nonsense> {
        Ok(Self { secs, nanos: 0 })
    }
}

impl Wire<v1::Trait> for (String, String) {
    fn into_wire(self) -> v1::Trait {
        let (name, value) = self;
        v1::Trait { name, value }
    }

    fn from_wire(wire: v1::Trait) -> Result<Self, Nonsense> {
        Ok((wire.name, wire.value))
    }
}

/// A damaged pack, with the reason.
impl Wire<v1::LeftOut> for (Digest, String) {
    fn into_wire(self) -> v1::LeftOut {
        v1::LeftOut {
            what: self.0.into_wire(),
            why: self.1,
        }
    }

    fn from_wire(wire: v1::LeftOut) -> Result<Self, Nonsense> {
        Ok((Digest::from_wire(wire.what)?, wire.why))
    }
}
