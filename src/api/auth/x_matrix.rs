//! The `Authorization: X-Matrix …` header of other servers (server-server API, "Request Authentication"): parameters in
//! any order, names in any case, values quoted or not, colons allowed in both.

use hearth_base::{Error, Result};
use http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use ruma::{OwnedServerName, ServerName};

/// Headers of one request that are looked at: one a key.
const MAX_HEADERS: usize = 5;

/// Who a request claims to be from, with the signatures that are to prove it.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// The server.
    pub origin: OwnedServerName,
    /// Key ids and signatures in base64, not looked at yet.
    pub signatures: Vec<(String, String)>,
}

/// 401 `M_UNAUTHORIZED`.
pub fn unauthorized(why: impl Into<String>) -> Error {
    Error::told(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", why.into())
}

/// The claim of a request to the server called `own`.
///
/// # Errors
/// 401 `M_UNAUTHORIZED` if there is none, if it cannot be read, or if it is meant for another server; 400 for an origin that
/// is no server name.
pub fn claim(headers: &HeaderMap, own: &ServerName) -> Result<Claim> {
    let mut claim: Option<Claim> = None;
    let values = headers.get_all(AUTHORIZATION).into_iter().filter_map(|v| v.to_str().ok());
    for params in values.filter_map(params).take(MAX_HEADERS) {
        let params = read(params).ok_or_else(|| unauthorized("The X-Matrix header cannot be read"))?;
        let of = |name: &str| params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let (Some(origin), Some(key), Some(sig)) = (of("origin"), of("key"), of("sig")) else {
            return Err(unauthorized("The X-Matrix header needs origin, key and sig"));
        };
        // Servers older than v1.3 do not say whom they mean.
        if of("destination").is_some_and(|to| to != own) {
            return Err(unauthorized("This request is meant for another server"));
        }
        let origin =
            ServerName::parse(origin).map_err(|_| Error::invalid_param("The origin is no name of a server"))?;
        let signature = (key.to_owned(), sig.to_owned());
        match &mut claim {
            None => claim = Some(Claim { origin, signatures: vec![signature] }),
            Some(claim) if claim.origin == origin => claim.signatures.push(signature),
            Some(_) => return Err(unauthorized("A request is of one server")),
        }
    }
    claim.ok_or_else(|| unauthorized("This request must be signed by a server (X-Matrix)"))
}

/// What follows the scheme, if it is ours.
fn params(value: &str) -> Option<&str> {
    let (scheme, rest) = value.trim().split_once([' ', '\t'])?;
    scheme.eq_ignore_ascii_case("X-Matrix").then_some(rest)
}

/// Names in lower case and values; each name once.
fn read(text: &str) -> Option<Vec<(String, String)>> {
    let mut params: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                (value.to_owned(), after)
            }
        };
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if !is_name || params.iter().any(|(n, _)| *n == name) {
            return None;
        }
        params.push((name, value));
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    Some(params)
}

/// A quoted value whose first quote is gone, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(values: &[&str]) -> Result<Claim> {
        let headers = values.iter().map(|v| (AUTHORIZATION, v.parse().unwrap())).collect();
        claim(&headers, <&ServerName>::try_from("here.org:1").unwrap())
    }

    #[test]
    fn all_ways_to_write_it() {
        for text in [
            r#"X-Matrix origin="a.org:8448",destination="here.org:1",key="ed25519:1",sig="AB/+c""#,
            r#"X-Matrix origin=a.org:8448,destination=here.org:1,key=ed25519:1,sig=AB/+c"#,
            r#"x-matrix  SIG="AB/+c" , Key="ed25519:1",unknown=5,	origin="a\.org:8448""#,
        ] {
            let claim = parse(&[text]).unwrap();
            assert_eq!(claim.origin, "a.org:8448", "{text}");
            assert_eq!(claim.signatures, [("ed25519:1".to_owned(), "AB/+c".to_owned())], "{text}");
        }
        let two = parse(&["X-Matrix origin=a,key=1,sig=x", "X-Matrix origin=a,key=2,sig=y", "Bearer z"]).unwrap();
        assert_eq!(two.signatures.len(), 2);
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            "Bearer x",
            "X-Matrix",
            "X-Matrix origin=a,key=1",
            "X-Matrix origin=a,origin=b,key=1,sig=x",
            "X-Matrix origin=a,key=1,sig=\"x",
            "X-Matrix origin=a,destination=there.org,key=1,sig=x",
            "X-Matrix origin=a key=1 sig=x",
            "X-Matrix ,,,=,\"",
        ] {
            let e = parse(&[bad]).unwrap_err();
            assert_eq!((e.status().as_u16(), e.errcode()), (401, "M_UNAUTHORIZED"), "{bad}");
        }
        for origin in ["a b", "a:http", "a:99999"] {
            let e = parse(&[&format!("X-Matrix origin=\"{origin}\",key=1,sig=x")]).unwrap_err();
            assert_eq!((e.status().as_u16(), e.errcode()), (400, "M_INVALID_PARAM"), "{origin}");
        }
        assert!(parse(&[]).is_err());
        assert!(parse(&["X-Matrix origin=a,key=1,sig=x", "X-Matrix origin=b,key=1,sig=x"]).is_err());
    }
}
