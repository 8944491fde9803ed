//! The input of packing: entries, and the sources of their contents.

use crate::{
    artifact::toc::ObjectId,
    digest::Sha256,
    entry::{Content, Entry},
};

/// Where an item's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentPlan {
    /// It has no content: a folder, a link, an empty file.
    None,
    /// Kept packs have all of its content; only the entry is listed.
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
    /// The expected digest of its content, if its name contains it.
    pub claim: Option<Sha256>,
    /// Where its content comes from.
    pub content: ContentPlan,
}

/// Opens contents by the index of the item; called from many threads.
pub trait Contents: Sync {
    /// Opens the content of an item whose plan is [`ContentPlan::Read`].
    ///
    /// # Errors
    /// The reason why it must be left out, in words.
    fn open(&self, item: usize) -> std::result::Result<Box<dyn Content>, String>;
}
