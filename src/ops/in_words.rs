//! Tags in messages, as the user named the cache: `gobuild example.com/app (scope default)` for `gobuild.example_2ecom_2fapp.default.`.
//! Reports keep the tags themselves, for scripts.

use crate::{
    artifact::spelled::{self, Spelled},
    source::SourceKind,
};

/// `text` with every cachectl tag in words, both head tags and side tags. Text in backticks is meant to be typed, and stays.
pub fn in_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, part) in text.split('`').enumerate() {
        if i > 0 {
            out.push('`');
        }
        // A single backtick encloses nothing.
        let is_typed = i % 2 == 1 && text.matches('`').count() > i;
        if is_typed {
            out.push_str(part);
        } else {
            words_of(part, &mut out);
        }
    }
    out
}

fn words_of(text: &str, out: &mut String) {
    let is_of_tag = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let mut rest = text;
    while let Some(at) = rest.find(is_of_tag) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let end = found.find(|c| !is_of_tag(c)).unwrap_or(found.len());
        let (token, after) = found.split_at(end);
        rest = after;
        // A part of a path is not a tag.
        let is_path = out.ends_with('/') || after.starts_with('/');
        // `tags PREFIX*` of a listing: its side tags, or its keys with that prefix.
        let listed = after
            .strip_prefix('*')
            .and_then(|after| Some((listed(token)?, after)));
        if let Some((spelled, after)) = listed.filter(|_| !is_path) {
            rest = after;
            let repository = take_repository(out);
            out.push_str(&phrase(&spelled, &repository));
            continue;
        }
        match tag(token).filter(|_| !is_path) {
            None => out.push_str(token),
            Some((spelled, end)) => {
                let repository = take_repository(out);
                out.push_str(&phrase(&spelled, &repository));
                out.push_str(end);
            }
        }
    }
    out.push_str(rest);
}

/// What tags with this prefix belong to: side tags to their head, others to keys with that prefix.
fn listed(prefix: &str) -> Option<Spelled> {
    let is_side = prefix.split('.').count() == 5;
    let side = [".w", ".r"].iter().find_map(|end| prefix.strip_suffix(end));
    let (mut spelled, rest) = tag(side.filter(|_| is_side).unwrap_or(prefix))?;
    if !is_side {
        spelled.key.push('*');
    }
    rest.is_empty().then_some(spelled)
}

/// A cachectl tag, followed by the period of the sentence.
fn tag(token: &str) -> Option<(Spelled, &str)> {
    let read = |text: &str| {
        let spelled = spelled::read(text)?;
        SourceKind::from_name(&spelled.kind).map(|_| spelled)
    };
    let whole = read(token).map(|spelled| (spelled, ""));
    whole.or_else(|| Some((read(token.strip_suffix('.')?)?, ".")))
}

/// Removes `REPO:` from the end of the text written so far.
fn take_repository(out: &mut String) -> String {
    let is_of_name = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-' | '/')
    };
    let Some(name) = out.strip_suffix(':') else {
        return String::new();
    };
    let start = name.rfind(|c| !is_of_name(c)).map_or(0, |at| {
        at + name[at..].chars().next().map_or(1, char::len_utf8)
    });
    if start == name.len() {
        return String::new();
    }
    out.split_off(start)
}

fn phrase(spelled: &Spelled, repository: &str) -> String {
    let Spelled {
        kind,
        name,
        scope,
        key,
    } = spelled;
    let key = match key.as_str() {
        "" => String::new(),
        key => format!(", key {key}"),
    };
    format!("{kind} {repository}{name} (scope {scope}{key})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_in_a_message_are_said_in_words() {
        for (text, words) in [
            (
                "cannot resolve gobuild.example_2ecom_2fapp.default. at s3://b: timed out",
                "cannot resolve gobuild example.com/app (scope default) at s3://b: timed out",
            ),
            (
                "tag dir.web.pr-7.k1..: damaged",
                "tag dir.web.pr-7.k1..: damaged",
            ),
            (
                "holds another name, which belongs to tag dir.web.pr-7.k1.",
                "holds another name, which belongs to tag dir web (scope pr-7, key k1).",
            ),
            (
                "removed gomod.m.default..w1lgmiiusk72k0igi",
                "removed gomod m (scope default)",
            ),
            (
                "tag team/app:dir.web.default.: lost",
                "tag dir team/app:web (scope default): lost",
            ),
            // What is listed begins with it.
            (
                "cannot list tags dir.n.default..w* at oci://r.example/c: no",
                "cannot list tags dir n (scope default) at oci://r.example/c: no",
            ),
            (
                "cannot list tags dir.n.default.k1.w* at s3://b: no",
                "cannot list tags dir n (scope default, key k1) at s3://b: no",
            ),
            (
                "cannot list tags dir.n.default.k* at s3://b: no",
                "cannot list tags dir n (scope default, key k*) at s3://b: no",
            ),
            (
                "cannot list tags * at s3://b",
                "cannot list tags * at s3://b",
            ),
            // What is to be typed, paths, and what others called so.
            (
                "`cachectl rm dir.web.default.`",
                "`cachectl rm dir.web.default.`",
            ),
            ("disk:/srv/dir.a.b.c: full", "disk:/srv/dir.a.b.c: full"),
            ("dir.a.b.c/x: lost", "dir.a.b.c/x: lost"),
            ("tag v1.2.3.4: lost", "tag v1.2.3.4: lost"),
            ("one ` and dir.a.b.c", "one ` and dir a (scope b, key c)"),
        ] {
            assert_eq!(in_words(text), words);
        }
    }
}
