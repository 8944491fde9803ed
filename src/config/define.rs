//! Macros that derive everything about a setting from its one line.

/// Defines, from lines like these, a struct, the rows of its keys, and a function that reads it from a [`Layer`](super::Layer):
///
/// ```text
/// field: Type, "key" = how else "default", Counts, Flag::new("flag") => "what it does";
/// ```
///
/// - `how` is a method of `Layer`: `size else "no limit"` is an `Option`, with a description of the default. With `or` the
///   default is written and parsed like a value: `size or "16MiB"`.
/// - `(choice WORDS)` takes the pairs of words and values that [`choice`](super::Layer::choice) takes.
/// - `(Path: expression)` reads it in another way; the shape is for the table.
/// - Without `field: Type,` the line is only a row, `(Path)`: other code reads that key.
/// - The word after the default is the argument of the function that `by` names: a variant of `InCheckout` or `TakesEffect`. The
///   flag is optional.
///
/// `and { … }` has the fields that are not a single key. Instead of defining a struct, a function can fill one of another module
/// (`fn read(layer) -> Config, rows ROWS`); its lines name no types, may name fields of fields
/// (`net.stall`), and missing fields have their `Default`.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident by $row:ident, fn $read:ident($layer:ident $(, $more:ident: $more_type:ty)*) {
            $(
                $($field:ident: $type:ty,)? $key:literal = $how:tt $join:tt $default:literal,
                    $policy:ident $(, $flag:expr)? => $about:literal;
            )*
        }
        $(and { $( $(#[$and_meta:meta])* $and:ident: $and_type:ty = $value:expr, )* })?
    ) => {
        $(#[$meta])*
        pub struct $name {
            $($(
                #[doc = $about]
                pub $field: $type,
            )?)*
            $($(
                $(#[$and_meta])*
                pub $and: $and_type,
            )*)?
        }

        impl $name {
            pub(in crate::config) const ROWS: &'static [$crate::config::table::Key] = &[
                $(row!($row, $key, $how, $policy, $default, $about $(, $flag)?)),*
            ];

            fn $read($layer: &$crate::config::Layer $(, $more: $more_type)*) -> $crate::config::Result<Self> {
                Ok(Self {
                    $($($field: value!($layer, $key, $how $join $default),)?)*
                    $($($and: $value,)*)?
                })
            }
        }
    };
    (
        $(#[$meta:meta])*
        fn $read:ident($layer:ident $(, $more:ident: $more_type:ty)*) -> $target:ident, rows $rows:ident by $row:ident {
            $(
                $($($field:ident).+,)? $key:literal = $how:tt $join:tt $default:literal,
                    $policy:ident $(, $flag:expr)? => $about:literal;
            )*
        }
        $(and { $( $($and:ident).+ = $value:expr, )* })?
    ) => {
        pub(in crate::config) const $rows: &[$crate::config::table::Key] = &[
            $(row!($row, $key, $how, $policy, $default, $about $(, $flag)?)),*
        ];

        $(#[$meta])*
        pub(in crate::config) fn $read(
            $layer: &$crate::config::Layer $(, $more: $more_type)*
        ) -> $crate::config::Result<$target> {
            let mut target = $target::default();
            $($(target.$($field).+ = value!($layer, $key, $how $join $default);)?)*
            $($(target.$($and).+ = $value;)*)?
            Ok(target)
        }
    };
}

/// A row of the table.
macro_rules! row {
    ($row:ident, $key:literal, $how:tt, $policy:ident, $default:literal, $about:literal) => {
        $crate::config::table::Key::$row(
            $key,
            shape!($how),
            policy!($row, $policy),
            $default,
            $about,
        )
    };
    ($row:ident, $key:literal, $how:tt, $policy:ident, $default:literal, $about:literal, $flag:expr) => {
        row!($row, $key, $how, $policy, $default, $about).with_flag($flag)
    };
}

macro_rules! policy {
    (of_command, $policy:ident) => {
        $crate::config::table::InCheckout::$policy
    };
    (of_daemon, $policy:ident) => {
        $crate::config::table::TakesEffect::$policy
    };
}

/// The shape for a way of reading.
macro_rules! shape {
    ((choice $($words:tt)*)) => {
        $crate::config::table::Shape::Text
    };
    (($shape:ident $($rest:tt)*)) => {
        $crate::config::table::Shape::$shape
    };
    ($how:ident) => {
        $crate::config::table::shape_of::$how
    };
}

/// The value of a key in a layer.
macro_rules! value {
    ($layer:ident, $key:literal, (choice $words:expr) else $default:literal) => {
        $layer.choice($key, &$words)?
    };
    ($layer:ident, $key:literal, (choice $words:expr) or $default:literal) => {
        $layer.or_default($key, $default, |layer, key| layer.choice(key, &$words))?
    };
    ($layer:ident, $key:literal, ($shape:ident: $value:expr) else $default:literal) => {
        $value
    };
    ($layer:ident, $key:literal, list else $default:literal) => {
        $layer.list($key)
    };
    ($layer:ident, $key:literal, $how:ident else $default:literal) => {
        $layer.$how($key)?
    };
    ($layer:ident, $key:literal, $how:ident or $default:literal) => {
        $layer.or_default($key, $default, $crate::config::Layer::$how)?
    };
}
