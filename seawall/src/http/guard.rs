//! Who may ask at all, judged from a request's head: a page in somebody's browser must not reach a node on loopback
//! through a name that resolves there, nor post to it across origins.

use std::net::IpAddr;

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, ORIGIN};
use hyper::{Method, Version};

use crate::failure::{Failure, Kind};

/// The names by which a node may be called.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// None if the address is not loopback: whoever is routed here may call it anything.
    names: Option<Vec<String>>,
}

impl Guard {
    pub(super) fn new(address: IpAddr, hosts: &[String]) -> Self {
        if !address.is_loopback() {
            return Self { names: None };
        }
        let mut names: Vec<String> = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec();
        names.push(match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        });
        names.extend(hosts.iter().map(|host| host.to_lowercase()));
        Self { names: Some(names) }
    }

    pub(super) fn check(&self, method: &Method, version: Version, headers: &HeaderMap) -> Result<(), Failure> {
        if let Some(names) = &self.names {
            let known = |authority: &str| names.iter().any(|name| *name == host_of(authority).to_lowercase());
            match headers.get(HOST).map(|host| host.to_str()) {
                Some(Ok(host)) if known(host) => {}
                None if version < Version::HTTP_11 => {}
                Some(Ok(host)) => {
                    return Err(Failure::new(Kind::Usage, format!("`{host}` is not a name of this node"))
                        .hint("call it localhost, or add the name to http.hosts"));
                }
                _ => return Err(Failure::new(Kind::Usage, "the request has no Host header")),
            }
            let origin = headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
            if let Some(origin) = origin
                && !origin.split_once("://").is_some_and(|(_, authority)| known(authority))
            {
                return Err(Failure::new(Kind::Usage, format!("requests from the origin `{origin}` are not taken")));
            }
        }
        let json = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
        });
        if *method == Method::POST && !json {
            return Err(Failure::new(Kind::Usage, "a POST needs `Content-Type: application/json`"));
        }
        Ok(())
    }
}

/// `localhost:7700` is `localhost`, `[::1]:7700` is `[::1]`.
fn host_of(authority: &str) -> &str {
    match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, headers: &[(&'static str, &str)]) -> Result<(), Failure> {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| {
            map.insert(*name, value.parse().unwrap());
        });
        let guard = Guard::new("127.0.0.1".parse().unwrap(), &[String::from("db.internal")]);
        guard.check(&method, Version::HTTP_11, &map)
    }

    #[test]
    fn a_name_that_only_resolves_here_is_refused() {
        for host in ["localhost", "LOCALHOST:7700", "127.0.0.1:7700", "[::1]:1", "db.internal"] {
            check(Method::GET, &[("host", host)]).unwrap();
        }
        for host in ["evil.example", "evil.example:7700", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(check(Method::GET, &[("host", host)]).unwrap_err().message.contains("not a name"), "{host}");
        }
        assert!(check(Method::GET, &[]).unwrap_err().message.contains("no Host"));
    }

    #[test]
    fn another_origin_is_refused() {
        let host = ("host", "localhost:7700");
        check(Method::GET, &[host, ("origin", "http://localhost:7700")]).unwrap();
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            assert!(check(Method::GET, &[host, ("origin", origin)]).is_err(), "{origin}");
        }
    }

    #[test]
    fn a_post_must_say_it_is_json() {
        let host = ("host", "localhost");
        assert!(check(Method::POST, &[host]).is_err());
        assert!(check(Method::POST, &[host, ("content-type", "text/plain")]).is_err());
        check(Method::POST, &[host, ("content-type", "application/json; charset=utf-8")]).unwrap();
    }
}
