//! What is packed: entries, and where their contents come from.

use crate::{
    artifact::toc::ObjectId,
    digest::Sha256,
    entry::{Content, Entry},
};

/// Where an item's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentPlan {
    /// It has none: a folder, a link, an empty file.
    None,
    /// Kept packs have all of it; only the entry is listed.
    Kept {
        /// SHA-256 of the content.
        digest: Sha256,
        /// Its objects in order.
        objects: Vec<ObjectId>,
    },
    /// It is read: [`Contents::open`] with the item's index.
    Read,
}

/// An entry to be packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackItem {
    /// The entry.
    pub entry: Entry,
    /// What its content must hash to, where its name says so.
    pub claim: Option<Sha256>,
    /// Where its content comes from.
    pub content: ContentPlan,
}

/// Opens contents by the index of the item; called from many threads.
pub trait Contents: Sync {
    /// Opens the content of an item whose plan is [`ContentPlan::Read`].
    ///
    /// # Errors
    /// In words, why it must be left out.
    fn open(&self, item: usize) -> std::result::Result<Box<dyn Content>, String>;
}
