//! HS256 (RFC 7518 §3.2) for `jsonwebtoken`, which leaves the choice of a crypto library to the program.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result},
};
use signature::{Error, Signer, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| {
        let is_hmac = key.family() == AlgorithmFamily::Hmac;
        Ok(Box::new(Hs256::new(*algorithm, is_hmac, key.as_bytes())?))
    },
    verifier_factory: |algorithm, key| {
        let is_hmac = key.family() == AlgorithmFamily::Hmac;
        Ok(Box::new(Hs256::new(
            *algorithm,
            is_hmac,
            key.try_get_as_bytes()?,
        )?))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes the tokens of this process use it. May be called repeatedly.
pub(super) fn install() {
    // An error means that it is already installed.
    let _ = PROVIDER.install_default();
}

struct Hs256(Hmac<sha2::Sha256>);

impl Hs256 {
    fn new(algorithm: Algorithm, is_hmac: bool, key: &[u8]) -> Result<Self> {
        if algorithm != Algorithm::HS256 || !is_hmac {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        let mac = Hmac::new_from_slice(key).map_err(|_| ErrorKind::InvalidKeyFormat)?;
        Ok(Self(mac))
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let mac = self.0.clone().chain_update(message);
        Ok(mac.finalize().into_bytes().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let mac = self.0.clone().chain_update(message);
        mac.verify_slice(signature).map_err(Error::from_source)
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, EncodingKey};

    use super::*;

    #[test]
    fn it_is_the_hs256_of_the_standard() {
        install();
        // RFC 7515, appendix A.1.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let bytes = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, key).unwrap();
        let signs = EncodingKey::from_secret(&bytes).unwrap();
        let signs = jsonwebtoken::crypto::sign(signed.as_bytes(), &signs, Algorithm::HS256);
        assert_eq!(signs.unwrap(), signature);
        let checks = DecodingKey::from_secret(&bytes).unwrap();
        let is_right = |message: &str, algorithm| {
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &checks, algorithm)
        };
        assert!(is_right(signed, Algorithm::HS256).unwrap());
        assert!(!is_right(&signed[1..], Algorithm::HS256).unwrap());
        assert!(is_right(signed, Algorithm::HS384).is_err());
    }
}
