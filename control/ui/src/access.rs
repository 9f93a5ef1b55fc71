//! Which requests are answered: those of the page itself, with the token of this process.
//!
//! Other web sites in the user's browser can't read the page: a name that was resolved to a
//! loopback address (DNS rebinding) is no valid `Host`, and requests of other origins are denied.
//! Other users of the machine don't know the token, which is in the URL that is printed at the
//! start.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, Uri};

/// Bytes of a token.
const TOKEN_BYTES: usize = 16;
/// Whether the browser says that a request is of the page (W3C Fetch Metadata).
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Which addresses the page may be served on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposure {
    /// Loopback addresses.
    Loopback,
    /// Any address; the connection is not encrypted.
    Any,
}

/// Which requests are answered.
#[derive(Debug)]
pub(crate) struct Access {
    exposure: Exposure,
    token: String,
    /// Cookies don't depend on the port, so that its name does.
    cookie: String,
}

/// How a request is treated.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// It is answered.
    Answer,
    /// It has the token in its URL: it is answered with this cookie and a redirect to the page.
    Admit(String),
    /// It is not from the page, or malformed.
    Forbid(&'static str),
    /// It doesn't have the token of this process.
    Unauthorized,
    /// It could change something.
    WrongMethod,
}

impl Access {
    /// Requires a new token.
    pub(crate) fn new(exposure: Exposure, listen: SocketAddr) -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let token = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { exposure, token, cookie: format!("podgate-ui-{}", listen.port()) })
    }

    /// The token.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Decides on a request.
    pub(crate) fn decide(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Decision {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Decision::WrongMethod;
        }
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok());
        let Some(host) = host.filter(|host| hosts.next().is_none() && self.is_own(host)) else {
            return Decision::Forbid("Host must be an IP address of this machine or localhost");
        };
        let is = |name: &str, wanted: &[&str]| {
            let values = headers.get_all(name);
            values.iter().all(|value| value.to_str().is_ok_and(|value| wanted.contains(&value)))
        };
        if !is(ORIGIN.as_str(), &[&format!("http://{host}")]) {
            return Decision::Forbid("the request is of another origin");
        }
        if !is(SEC_FETCH_SITE, &["same-origin", "none"]) {
            return Decision::Forbid("the request is of another site: paste the URL instead");
        }
        match self.token_in(uri) {
            Some(true) => Decision::Admit(format!(
                "{}={}; Path=/; HttpOnly; SameSite=Strict",
                self.cookie, self.token
            )),
            None if self.has_cookie(headers) => Decision::Answer,
            _ => Decision::Unauthorized,
        }
    }

    /// Whether a request to `host` may be meant for this server: names can resolve to anything.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            Some(_) if !host.ends_with(']') => return false,
            _ => host,
        };
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        match bare.parse::<IpAddr>() {
            Ok(address) => self.exposure == Exposure::Any || address.is_loopback(),
            Err(_) => false,
        }
    }

    /// Whether the token of the URL is right, if there is one.
    fn token_in(&self, uri: &Uri) -> Option<bool> {
        let mut pairs = form_urlencoded::parse(uri.query()?.as_bytes());
        let (_, token) = pairs.find(|(name, _)| uri.path() == "/" && name == "token")?;
        Some(equal(&token, &self.token))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| {
            cookie.trim().split_once('=').filter(|(name, _)| *name == self.cookie)
        });
        pairs.any(|(_, token)| equal(token, &self.token))
    }
}

/// Compares in a time that depends on the length only.
fn equal(left: &str, right: &str) -> bool {
    let pairs = left.bytes().zip(right.bytes());
    left.len() == right.len() && pairs.fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn new_access(exposure: Exposure) -> Access {
        Access::new(exposure, "127.0.0.1:12000".parse().unwrap()).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn decide(access: &Access, uri: &str, pairs: &[(&'static str, &str)]) -> Decision {
        access.decide(&Method::GET, &uri.parse().unwrap(), &headers(pairs))
    }

    #[test]
    fn the_token_of_the_url_becomes_a_cookie_and_the_cookie_is_needed() {
        let access = new_access(Exposure::Loopback);
        let host = ("host", "127.0.0.1:12000");
        let uri = format!("/?token={}", access.token());
        let Decision::Admit(cookie) = decide(&access, &uri, &[host]) else { panic!("denied") };
        assert!(cookie.starts_with("podgate-ui-12000=") && cookie.contains("HttpOnly"), "{cookie}");
        let (pair, _) = cookie.split_once(';').unwrap();
        let both = format!("other=1; {pair}");
        assert_eq!(decide(&access, "/api/status", &[host, ("cookie", &both)]), Decision::Answer);
        for (uri, cookie) in [
            ("/", "other=1"),
            ("/", "podgate-ui-12000=00"),
            ("/?token=", pair),
            ("/?token=00", pair),
            ("/api/status?token=00", "podgate-ui-12000"),
        ] {
            let decision = decide(&access, uri, &[host, ("cookie", cookie)]);
            assert_eq!(decision, Decision::Unauthorized, "{uri} {cookie}");
        }
        // Tokens are new each time.
        assert_ne!(access.token(), new_access(Exposure::Loopback).token());
        assert_eq!(access.token().len(), 2 * TOKEN_BYTES);
    }

    #[test]
    fn names_that_could_be_rebound_are_no_host() {
        let access = new_access(Exposure::Loopback);
        for good in ["127.0.0.1:12000", "localhost:12000", "LOCALHOST", "[::1]:12000", "[::1]"] {
            assert_eq!(decide(&access, "/", &[("host", good)]), Decision::Unauthorized, "{good}");
        }
        let bad = [
            "",
            "evil.example",
            "evil.example:12000",
            "localhost.evil.example",
            "192.0.2.1:12000",
            "[2001:db8::1]:12000",
            "127.0.0.1:x",
            "127.0.0.1:99999",
            "[::1",
            "localhost@evil",
        ];
        for bad in bad {
            let decision = decide(&access, "/", &[("host", bad)]);
            assert!(matches!(decision, Decision::Forbid(_)), "{bad}: {decision:?}");
        }
        assert!(matches!(decide(&access, "/", &[]), Decision::Forbid(_)));
        let two = [("host", "localhost"), ("host", "localhost")];
        assert!(matches!(decide(&access, "/", &two), Decision::Forbid(_)));
        let any = new_access(Exposure::Any);
        let decision = decide(&any, "/", &[("host", "192.0.2.1:12000")]);
        assert_eq!(decision, Decision::Unauthorized);
        let decision = decide(&any, "/", &[("host", "evil.example")]);
        assert!(matches!(decision, Decision::Forbid(_)));
    }

    #[test]
    fn other_origins_sites_and_methods_are_denied() {
        let access = new_access(Exposure::Loopback);
        let host = ("host", "localhost:12000");
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "https://localhost:12000"),
            ("origin", "http://localhost:12001"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let decision = decide(&access, "/", &[host, (name, value)]);
            assert!(matches!(decision, Decision::Forbid(_)), "{name}: {value}: {decision:?}");
        }
        for (name, value) in [
            ("origin", "http://localhost:12000"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
        ] {
            let decision = decide(&access, "/", &[host, (name, value)]);
            assert_eq!(decision, Decision::Unauthorized, "{name}: {value}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let decision = access.decide(&method, &"/".parse().unwrap(), &headers(&[host]));
            assert_eq!(decision, Decision::WrongMethod, "{method}");
        }
    }
}
