//! Unpredictable random numbers.

/// Bytes from the system's generator.
///
/// # Panics
/// On a kernel without `getrandom` (before 3.17), where no secure alternative exists.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut all = [0; N];
    let mut filled = 0;
    while filled < N {
        let part =
            rustix::rand::getrandom(&mut all[filled..], rustix::rand::GetRandomFlags::empty());
        match part {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("the kernel has no getrandom: {e}"),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_are_alike() {
        assert_ne!(super::bytes::<32>(), super::bytes::<32>());
    }
}
