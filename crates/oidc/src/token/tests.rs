use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use super::*;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A pair on P-256 named "p" and one of Ed25519 named "e".
struct Pairs {
    p256: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

impl Pairs {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let p256 =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self { p256, ed25519: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    fn set(&self) -> Value {
        let (x, y) = self.p256.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": "p", "use": "sig", "x": encode(x), "y": encode(y)},
            {"kty": "OKP", "crv": "Ed25519", "kid": "e", "alg": "EdDSA", "x": encode(self.ed25519.public_key())},
            {"kty": "oct", "kid": "o", "k": "c2VjcmV0"},
            {"kty": "RSA", "kid": "enc", "use": "enc", "n": "AQAB", "e": "AQAB"},
        ]})
    }

    fn keys(&self) -> Keys {
        Keys::read(self.set().to_string().as_bytes()).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = match header["kid"].as_str() {
            Some("e") => self.ed25519.sign(signed.as_bytes()).as_ref().to_vec(),
            _ => self.p256.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(signature))
    }
}

fn verify(text: &str, keys: &Keys) -> Result<Value, TokenError> {
    Token::read(text)?.verify(keys)
}

#[test]
fn a_token_counts_that_a_published_key_signed() {
    let (pairs, claims) = (Pairs::new(), json!({"sub": "ana"}));
    let keys = pairs.keys();
    for header in [
        json!({"alg": "ES256", "kid": "p"}),
        json!({"alg": "EdDSA", "kid": "e", "typ": "JWT"}),
        json!({"alg": "ES256", "kid": "p", "typ": "at+JWT"}),
        // One key only is for this algorithm.
        json!({"alg": "ES256"}),
    ] {
        assert_eq!(verify(&pairs.sign(&header, &claims), &keys), Ok(claims.clone()), "{header}");
    }
    let token = pairs.sign(&json!({"alg": "ES256", "kid": "p"}), &claims);
    assert_eq!(verify(&token, &Pairs::new().keys()), Err(TokenError::Signature));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let other = format!("{}.{}", signed.split_once('.').unwrap().0, encode(r#"{"sub":"eve"}"#));
    assert_eq!(verify(&format!("{other}.{signature}"), &keys), Err(TokenError::Signature));
}

#[test]
fn what_a_token_says_of_itself_opens_no_way_around_its_signature() {
    let (pairs, claims) = (Pairs::new(), json!({"sub": "ana"}));
    let keys = pairs.keys();
    let check = |header: Value, expected: TokenError| {
        assert_eq!(verify(&pairs.sign(&header, &claims), &keys), Err(expected), "{header}");
    };
    for algorithm in ["none", "None", "", "HS256", "HS512", "ES512", "RS1", "es256"] {
        check(json!({"alg": algorithm, "kid": "p"}), TokenError::Algorithm(algorithm.into()));
    }
    // The key is for another algorithm, for encryption, a shared secret, or not there.
    for (algorithm, kid) in [("ES256", "e"), ("EdDSA", "p"), ("RS256", "enc"), ("ES256", "o"), ("ES256", "x")]
    {
        check(json!({"alg": algorithm, "kid": kid}), TokenError::UnknownKey);
    }
    check(json!({"alg": "ES256", "kid": "p", "crit": ["b64"], "b64": false}), TokenError::Critical);
    check(json!({"alg": "ES256", "kid": "p", "typ": "logout+jwt"}), TokenError::Type("logout+jwt".into()));
    check(json!({"alg": 5, "kid": "p"}), TokenError::Form);
    // A key that comes along is not looked at.
    let (x, own) = (pairs.set(), Pairs::new());
    let header = json!({"alg": "ES256", "kid": "p", "jwk": x["keys"][0], "jku": "https://evil"});
    assert_eq!(verify(&own.sign(&header, &claims), &keys), Err(TokenError::Signature));
    // An empty signature is none.
    let unsigned = pairs.sign(&json!({"alg": "ES256", "kid": "p"}), &claims);
    let unsigned = unsigned.rsplit_once('.').unwrap().0;
    assert_eq!(verify(&format!("{unsigned}."), &keys), Err(TokenError::Signature));
}

#[test]
fn keys_of_one_kind_are_told_apart_by_name() {
    let (one, two) = (Pairs::new(), Pairs::new());
    let mut set = one.set();
    let mut second = two.set()["keys"][0].clone();
    second["kid"] = json!("q");
    set["keys"].as_array_mut().unwrap().push(second);
    let keys = Keys::read(set.to_string().as_bytes()).unwrap();
    let signed = |header: &Value| two.sign(header, &json!({}));
    assert!(verify(&signed(&json!({"alg": "ES256", "kid": "q"})), &keys).is_ok());
    assert_eq!(verify(&signed(&json!({"alg": "ES256", "kid": "p"})), &keys), Err(TokenError::Signature));
    assert_eq!(verify(&signed(&json!({"alg": "ES256"})), &keys), Err(TokenError::UnknownKey));
}

#[test]
fn rsa_verifies_the_example_of_the_standard() {
    // RFC 7515, A.2.
    let set = json!({"keys": [{"kty": "RSA", "e": "AQAB", "n":
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZ\
         S-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2\
         R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcD\
         TW9gb54h4FRWyuXpoQ"}]});
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y\
         b290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5ju\
         jGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN\
         9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywl\
         VmtVrBp0igcN_IoypGlUPQGe77Rw";
    let keys = Keys::read(set.to_string().as_bytes()).unwrap();
    assert_eq!(verify(token, &keys).unwrap()["iss"], json!("joe"));
    assert_eq!(verify(&token.replace("cC4h", "cC5h"), &keys), Err(TokenError::Signature));
}

#[test]
fn no_text_and_no_set_of_keys_harms() {
    let keys = Pairs::new().keys();
    for text in ["", ".", "..", "...", "a.b.c", "e30.e30.", "e30.e30.e30", "\u{e9}.a.b", "mat1_x"] {
        assert_eq!(verify(text, &keys), Err(TokenError::Form), "{text}");
    }
    let long = format!("{}.a.b", "a".repeat(MAX_TOKEN_BYTES));
    assert_eq!(verify(&long, &keys), Err(TokenError::Form));
    let deep = format!("{}.e30.e30", encode("[".repeat(10_000)));
    assert_eq!(verify(&deep, &keys), Err(TokenError::Form));
    let many = json!({"keys": vec![json!({}); crate::MAX_KEYS + 1]}).to_string();
    for set in ["", "[]", "{}", "{\"keys\": [1, {}, {\"kty\": \"RSA\"}]}", &many] {
        assert!(Keys::read(set.as_bytes()).is_err(), "{set}");
    }
}
