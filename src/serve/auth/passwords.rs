//! Users and their bcrypt hashes, from a file as `htpasswd -B` writes it.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tracing::warn;

use super::{Result, files, remembered::Remembered};
use crate::{
    digest::Sha256,
    fair::lines,
    redact::Secret,
    serve::admission::{Full, Key, Pool, Queue},
    task,
};
use base64::Engine as _;

/// Maximum number of concurrent checks: guessing must not use every processor.
const MAX_AT_ONCE: usize = 2;
/// Requests that wait for a password check, in total and per caller.
const QUEUE: Queue = Queue {
    total: 512,
    each: 128,
};
/// Accepted bcrypt costs: lower ones do not exist, and with higher ones a login takes many seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=15;
/// With a higher cost a login takes a second or more, and concurrent logins delay everybody.
const SLOW_COST: u32 = 12;
/// bcrypt ignores all bytes after this many.
const MAX_PASSWORD_BYTES: usize = 72;
/// Compared with passwords of unknown names if the file is empty; nobody has this password.
const DECOY: &str = "$2y$10$yqpZ.uwQryeanbUrqhshdOwSVMPpBqIXTAl3e3TXoPQAbRViN9mJO";

/// The users' password hashes.
pub(super) struct Passwords {
    users: BTreeMap<Arc<str>, Secret>,
    remembered: Remembered,
}

impl Passwords {
    /// Reads them; a correct password is remembered for `remember`. Blocks.
    ///
    /// # Errors
    /// Names the invalid line, without showing any of its hash.
    pub(super) fn read(path: &Path, remember: Duration) -> Result<Self> {
        Self::parse(path, &files::read(path, "htpasswd")?, remember)
    }

    fn parse(path: &Path, text: &str, remember: Duration) -> Result<Self> {
        let mut users = BTreeMap::new();
        for (number, line) in files::lines(text) {
            let wrong = |why: String| files::wrong_line(path, number, why);
            let Some((name, hash)) = line.split_once(':') else {
                return Err(wrong("expected `name:hash`".to_owned())
                    .hint("`htpasswd -nB name` prints such a line"));
            };
            files::check_name(name).map_err(|why| wrong(why.to_owned()))?;
            check_hash(hash).map_err(|why| {
                wrong(format!("user `{name}`: {why}")).hint(format!(
                    "set the password again with `htpasswd -B -C 10 FILE {name}`"
                ))
            })?;
            if let Some(cost) = slow_cost(hash) {
                let path = path.display();
                warn!(%path, line = number, user = name, cost, "Logins of this user are slow: the bcrypt cost is over {SLOW_COST}; set the password again with `htpasswd -B -C 10`");
            }
            if users.insert(name.into(), Secret::new(hash)).is_some() {
                return Err(wrong(format!(
                    "user `{name}` is already defined on an earlier line"
                )));
            }
        }
        Ok(Self {
            users,
            remembered: Remembered::new(remember),
        })
    }

    /// The users.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(AsRef::as_ref)
    }

    /// How many users there are.
    pub(super) fn count(&self) -> usize {
        self.users.len()
    }

    /// Slots for password checks.
    pub(super) fn checks() -> Pool {
        Pool::new("passwords", MAX_AT_ONCE, QUEUE)
    }

    /// The user's name, if the password is correct. Waits for a slot of `checks` as `caller` while others are being checked; an
    /// unknown name takes as long as a known one.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) async fn check(
        &self,
        name: &str,
        password: &Secret,
        (checks, caller): (&Pool, Key),
    ) -> std::result::Result<Option<Arc<str>>, Full> {
        if !is_whole(password.expose()) {
            if lines::may_write(&caller) {
                warn!("A password was refused: bcrypt ignores what follows 72 bytes, or a NUL");
            }
            return Ok(None);
        }
        let known = self.users.get_key_value(name);
        let id = self.remembered.id(name, password);
        let remembered = || {
            known
                .filter(|_| self.remembered.knows(id))
                .map(|(n, _)| n.clone())
        };
        if let Some(name) = remembered() {
            return Ok(Some(name));
        }
        let permit = checks.enter(caller).await?;
        // Sixty requests of one push arrive at once; the first of them did the work.
        if let Some(name) = remembered() {
            return Ok(Some(name));
        }
        let hash = known.map_or_else(|| self.decoy(name), |(_, hash)| hash.clone());
        let password = password.clone();
        let right = task::blocking(move || {
            let right = bcrypt::verify(password.expose(), hash.expose());
            drop(permit);
            right
        })
        .await;
        // An error means an invalid hash, which reading the file refuses.
        let name = known.filter(|_| right.unwrap_or(false));
        if name.is_some() {
            self.remembered.add(id);
        }
        Ok(name.map(|(name, _)| name.clone()))
    }

    /// A hash that changes with the password of `name`.
    pub(super) fn of(&self, name: &str) -> Option<Sha256> {
        let hash = self.users.get(name)?;
        Some(Sha256::of(hash.expose().as_bytes()))
    }

    /// Some user's hash, always the same for a given unknown name, so that checking it costs as much as for that file's users.
    fn decoy(&self, name: &str) -> Secret {
        let at = Sha256::of(name.as_bytes()).0[0] as usize % self.users.len().max(1);
        let found = self.users.values().nth(at).cloned();
        found.unwrap_or_else(|| Secret::new(DECOY))
    }
}

/// Returns true if bcrypt distinguishes this password from all others: it truncates after 72 bytes, and repeats shorter ones
/// with a NUL in between, so that `a` and `a\0a` are the same to it.
fn is_whole(password: &str) -> bool {
    password.len() <= MAX_PASSWORD_BYTES && !password.contains('\0')
}

/// The cost of a checked hash, if it deserves a warning.
fn slow_cost(hash: &str) -> Option<u32> {
    let cost = hash.split('$').nth(2)?.parse().ok()?;
    (cost > SLOW_COST).then_some(cost)
}

/// Checks that a hash is a complete bcrypt hash, with an acceptable cost.
fn check_hash(hash: &str) -> std::result::Result<(), String> {
    let kind = match hash {
        h if ["$2y$", "$2a$", "$2b$"].iter().any(|p| h.starts_with(p)) => {
            return check_bcrypt(&hash[4..]);
        }
        h if h.starts_with("$apr1$") || h.starts_with("$1$") => "an MD5 hash",
        h if h.starts_with("{SHA}") => "an SHA-1 hash",
        h if h.starts_with("$5$") || h.starts_with("$6$") => "an SHA-crypt hash",
        h if h.starts_with("$argon2") => "an Argon2 hash",
        h if h.starts_with("$2x$") => "a hash by a faulty version of bcrypt",
        "" => "no hash at all",
        _ => "no known type of hash (perhaps the password itself)",
    };
    Err(format!(
        "it has {kind}; only bcrypt is supported (`$2y$`, `$2a$`, `$2b$`)"
    ))
}

fn check_bcrypt(rest: &str) -> std::result::Result<(), String> {
    let broken = || "the bcrypt hash is incomplete".to_owned();
    let (cost, value) = rest.split_once('$').ok_or_else(broken)?;
    let cost: u32 = cost.parse().map_err(|_| broken())?;
    if !COSTS.contains(&cost) {
        return Err(format!(
            "the bcrypt cost {cost} is not between {} and {}",
            COSTS.start(),
            COSTS.end()
        ));
    }
    let whole = value.len() == 53
        && value.is_ascii()
        && bcrypt::BASE_64
            .decode(&value[..22])
            .is_ok_and(|s| s.len() == 16)
        && bcrypt::BASE_64
            .decode(&value[22..])
            .is_ok_and(|h| h.len() == 23);
    if whole { Ok(()) } else { Err(broken()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Apache's `htpasswd -nbB` wrote it.
    const CI: &str = "ci:$2y$04$4dj4VlGXORDY/QCRh7J02Ot5T4Fwpe6/jNTuauFTJr7gCBlvtjRK.";

    fn parse(text: &str) -> Result<Passwords> {
        Passwords::parse(Path::new("htpasswd"), text, Duration::from_mins(5))
    }

    async fn right(p: &Passwords, name: &str, password: &str) -> bool {
        let at = (&Passwords::checks(), Key::Unknown);
        let checked = p.check(name, &Secret::new(password), at).await;
        checked.unwrap().is_some()
    }

    #[tokio::test]
    async fn only_the_right_password_of_the_user_counts() {
        let p = parse(&format!("# people\n\n{CI}\n")).unwrap();
        assert!(right(&p, "ci", "correct horse").await);
        assert!(right(&p, "ci", "correct horse").await, "from memory");
        assert!(!right(&p, "ci", "correct hors").await);
        assert!(!right(&p, "ci", "").await);
        assert!(!right(&p, "CI", "correct horse").await);
        assert!(!right(&p, "nobody", "correct horse").await);
    }

    #[tokio::test]
    async fn unknown_name_is_compared_and_still_refused() {
        let p = parse(CI).unwrap();
        // The only user's hash is the decoy, and this is its password: only the name is wrong.
        assert_eq!(p.decoy("nobody"), p.users["ci"]);
        assert!(!right(&p, "nobody", "correct horse").await);
        let empty = parse("").unwrap();
        assert!(!right(&empty, "nobody", "x").await);
        assert_eq!(check_hash(DECOY), Ok(()));
    }

    #[tokio::test]
    async fn passwords_that_bcrypt_takes_for_another_are_refused() {
        let long = "A".repeat(72);
        for (password, same_to_bcrypt) in [(&*long, format!("{long}A")), ("x", "x\0x".to_owned())] {
            let hash = bcrypt::hash(password, 4).unwrap();
            // What is refused here is correct according to bcrypt; otherwise this test would show nothing.
            assert!(bcrypt::verify(&same_to_bcrypt, &hash).unwrap());
            let p = parse(&format!("ci:{hash}")).unwrap();
            assert!(right(&p, "ci", password).await);
            assert!(!right(&p, "ci", &same_to_bcrypt).await);
        }
    }

    #[test]
    fn costs_up_to_fifteen_are_taken_and_the_dear_ones_named() {
        let with_cost = |cost: u32| CI.replace("$04$", &format!("${cost:02}$"));
        for (cost, slow, taken) in [
            (3, false, false),
            (4, false, true),
            (12, false, true),
            (13, true, true),
            (15, true, true),
            (16, true, false),
        ] {
            let line = with_cost(cost);
            assert_eq!(parse(&line).is_ok(), taken, "{cost}");
            assert_eq!(slow_cost(&line), slow.then_some(cost), "{cost}");
        }
    }

    #[test]
    fn all_three_prefixes_of_bcrypt_are_taken() {
        for prefix in ["$2y$", "$2a$", "$2b$"] {
            assert!(parse(&CI.replace("$2y$", prefix)).is_ok());
        }
    }

    #[test]
    fn other_hashes_are_refused_with_their_kind_and_line() {
        for (line, why) in [
            ("x:$apr1$OW9vFnsH$5ZhMrRifsk/SPsIsG..9h0", "an MD5 hash"),
            ("x:{SHA}lcsL/Sl3x2EpjZYk5LTUxyo5l0o=", "an SHA-1 hash"),
            ("x:$6$salt$hunter2", "an SHA-crypt hash"),
            ("x:$argon2id$v=19$hunter2", "an Argon2 hash"),
            ("x:hunter2", "perhaps the password itself"),
            ("x:", "no hash"),
            ("hunter2", "expected `name:hash`"),
            (":$2y$04$hunter2", "the name is empty"),
            ("x:$2y$04$hunter2", "incomplete"),
            (
                "x:$2y$31$4dj4VlGXORDY/QCRh7J02Ot5T4Fwpe6/jNTuauFTJr7gCBlvtjRK.",
                "cost 31",
            ),
            (CI, "is already defined on an earlier line"),
        ] {
            let error = parse(&format!("{CI}\n{line}\n")).err().unwrap();
            assert!(error.message.contains("line 2"), "{error}");
            assert!(error.message.contains(why), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
