//! Lists and maps of foreign JSON with a limit on their items: two bytes of a document may be an item of a hundred bytes.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// A list that is refused as soon as it has more than `MOST` items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const MOST: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Items<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == MOST {
                        return Err(Error::custom(format!("a list of more than {MOST}")));
                    }
                    list.push(item);
                }
                Ok(list)
            }
        }
        d.deserialize_seq(Items::<T, MOST>(PhantomData)).map(Self)
    }
}

/// The items of a [`List`], for `deserialize_with`.
pub(super) fn list<'de, const MOST: usize, D, T>(d: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    List::<T, MOST>::deserialize(d).map(|list| list.0)
}

/// A map of texts that is refused as soon as it has more than `MOST` keys.
pub(super) struct Map<const MOST: usize>(pub(super) BTreeMap<String, String>);

impl<'de, const MOST: usize> Deserialize<'de> for Map<MOST> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Fields<const MOST: usize>;
        impl<'de, const MOST: usize> Visitor<'de> for Fields<MOST> {
            type Value = BTreeMap<String, String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map of at most {MOST}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = fields.next_entry()? {
                    map.insert(key, value);
                    if map.len() > MOST {
                        return Err(Error::custom(format!("a map of more than {MOST}")));
                    }
                }
                Ok(map)
            }
        }
        d.deserialize_map(Fields::<MOST>).map(Self)
    }
}

/// The fields of a [`Map`], for `deserialize_with`.
pub(super) fn map<'de, const MOST: usize, D>(d: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    Map::<MOST>::deserialize(d).map(|map| map.0)
}
