//! The input of packing: entries, and the sources of their contents.

use crate::{
    artifact::toc::ObjectId,
    digest::ContentId,
    entry::{Content, Entry},
};

/// Where an item's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentPlan {
    /// It has no content: a folder, a link, an empty file.
    None,
    /// Kept packs have all of its content; only the entry is listed.
    Kept {
        /// Identity of the content.
        content: ContentId,
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
    /// The expected identity of its content, if it is known: its name contains it, or another pack holds it.
    pub claim: Option<ContentId>,
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
