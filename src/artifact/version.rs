//! What a reader says about a document of another version of the format.

/// The reason for refusing a document of version `found` by a program that reads version `known`.
pub(super) fn refusal(found: u64, known: u64) -> String {
    if found < known {
        return format!(
            "it has version {found} of the format, which an earlier cachectl wrote; this program reads version {known}: the \
             next export replaces it"
        );
    }
    format!(
        "it has version {found} of the format, this program reads version {known}: update cachectl"
    )
}
