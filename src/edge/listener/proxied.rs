//! The PROXY protocol (HAProxy's `proxy-protocol.txt`, versions 1 and 2): what a load balancer that passes TCP on says of
//! the caller before the caller's first byte.
//!
//! Read on the edge's own ports alone, and from the networks of `edge.proxy_protocol` alone: from there it has to come, and
//! from nowhere else is it understood, so that nobody chooses an address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// With what version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// With what version 1 begins.
const WORD: &[u8; 6] = b"PROXY ";
/// The longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;
/// The longest head of version 2 that is read: addresses, and what a balancer may add of certificates and the like.
const LONGEST: usize = 4096;

/// What was said of the caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The caller's address; none where the balancer speaks for itself, as when it looks whether we are well.
    pub caller: Option<IpAddr>,
    /// How many bytes it took to say so.
    length: usize,
}

/// Reads the head from a stream. Gives the caller, and what was read of the caller's own bytes.
///
/// # Errors
/// If something else comes, or the stream ends before.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Option<IpAddr>, Vec<u8>)> {
    let mut read = Vec::with_capacity(256);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match parse(&read) {
            Some(Ok(Said { caller, length })) => return Ok((caller, read.split_off(length))),
            Some(Err(Wrong)) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
    }
}

/// Something else came.
#[derive(Debug, PartialEq, Eq)]
struct Wrong;

/// What a head says; none as long as it is not whole.
fn parse(bytes: &[u8]) -> Option<Result<Said, Wrong>> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        version_2(bytes)
    } else if begins(WORD) {
        version_1(bytes)
    } else {
        Some(Err(Wrong))
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.7 56324 443`, or `PROXY UNKNOWN` and anything.
fn version_1(bytes: &[u8]) -> Option<Result<Said, Wrong>> {
    let Some(end) = bytes.iter().take(LONGEST_LINE).position(|b| *b == b'\n') else {
        return (bytes.len() >= LONGEST_LINE).then_some(Err(Wrong));
    };
    let line =
        bytes.get(..end).and_then(|line| std::str::from_utf8(line).ok()).and_then(|line| line.strip_suffix('\r'));
    let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
    let caller = match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", from, _, _, _] => from.parse::<Ipv4Addr>().map(|ip| Some(ip.into())),
        ["PROXY", "TCP6", from, _, _, _] => from.parse::<Ipv6Addr>().map(|ip| Some(IpAddr::from(ip).to_canonical())),
        _ => return Some(Err(Wrong)),
    };
    Some(caller.map(|caller| Said { caller, length: end + 1 }).map_err(|_| Wrong))
}

/// The signature, version and command, family, length, addresses, and what else there may be.
fn version_2(bytes: &[u8]) -> Option<Result<Said, Wrong>> {
    let (head, rest) = bytes.split_at_checked(SIGNATURE.len() + 4)?;
    let [.., command, family, high, low] = *head else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || length > LONGEST {
        return Some(Err(Wrong));
    }
    let rest = rest.get(..length)?;
    let caller = match (command & 15, family) {
        (0, _) => Ok(None),
        (1, 0x11) => first(rest, 12).map(|ip: [u8; 4]| Some(ip.into())),
        (1, 0x21) => first(rest, 36).map(|ip: [u8; 16]| Some(IpAddr::from(ip).to_canonical())),
        // Unix sockets, datagrams, what cannot be told: nobody with an address.
        (1, _) => Ok(None),
        _ => Err(Wrong),
    };
    Some(caller.map(|caller| Said { caller, length: head.len() + length }))
}

/// The first bytes of a block that is at least so long.
fn first<const N: usize>(block: &[u8], least: usize) -> Result<[u8; N], Wrong> {
    if block.len() < least {
        return Err(Wrong);
    }
    block.first_chunk().copied().ok_or(Wrong)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    async fn told(head: &[u8], rest: &str) -> Result<Option<String>, io::ErrorKind> {
        let whole = [head, rest.as_bytes()].concat();
        // In one piece and byte by byte.
        let (caller, left) = read(&mut &whole[..]).await.map_err(|e| e.kind())?;
        assert_eq!(left, rest.as_bytes());
        let (mut ours, theirs) = tokio::io::duplex(1);
        let send = tokio::spawn(async move {
            let mut theirs = theirs;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut theirs, &whole).await;
        });
        assert_eq!(read(&mut ours).await.unwrap().0, caller);
        send.abort();
        Ok(caller.map(|ip| ip.to_string()))
    }

    #[tokio::test]
    async fn both_versions_are_read_and_the_rest_is_the_callers() {
        let of = |ip: &str| Ok(Some(ip.to_owned()));
        assert_eq!(told(b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", "GET /").await, of("192.0.2.1"));
        assert_eq!(told(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "").await, of("2001:db8::1"));
        assert_eq!(told(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "").await, of("192.0.2.1"));
        assert_eq!(told(b"PROXY UNKNOWN\r\n", "x").await, Ok(None));
        assert_eq!(told(b"PROXY UNKNOWN a b c d\r\n", "x").await, Ok(None));
        let v4 = [192, 0, 2, 1, 198, 51, 100, 7, 1, 2, 1, 187];
        assert_eq!(told(&v2(0x21, 0x11, &v4), "\x16\x03\x01").await, of("192.0.2.1"));
        assert_eq!(told(&v2(0x21, 0x11, &[&v4[..], &[3, 0, 1, 9]].concat()), "x").await, of("192.0.2.1"));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        assert_eq!(told(&v2(0x21, 0x21, &v6), "x").await, of("2001:db8::"));
        assert_eq!(told(&v2(0x20, 0, &[]), "x").await, Ok(None), "the balancer for itself");
        assert_eq!(told(&v2(0x21, 0x31, &[0; 216]), "x").await, Ok(None), "a Unix socket");
    }

    #[tokio::test]
    async fn what_is_none_is_refused_as_soon_as_that_is_clear() {
        let wrong = Err(io::ErrorKind::InvalidData);
        for bad in [
            "GET / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY TCP4 192.0.2.1\r\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
            "\x16\x03\x01",
        ] {
            assert_eq!(told(bad.as_bytes(), "").await, wrong, "{bad:?}");
        }
        assert_eq!(told(format!("PROXY UNKNOWN {}", "x".repeat(200)).as_bytes(), "").await, wrong);
        for bad in
            [v2(0x11, 0x11, &[0; 12]), v2(0x22, 0x11, &[0; 12]), v2(0x21, 0x11, &[0; 11]), v2(0x21, 0x21, &[0; 12])]
        {
            assert_eq!(told(&bad, "").await, wrong, "{bad:?}");
        }
        assert_eq!(told(&v2(0x21, 0x11, &[0; LONGEST + 1]), "").await, wrong);
        for short in ["", "PROXY TC", "\r\n\r\n\0\r\nQUIT\n\x21"] {
            assert_eq!(told(short.as_bytes(), "").await, Err(io::ErrorKind::UnexpectedEof), "{short:?}");
        }
    }
}
