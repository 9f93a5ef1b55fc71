//! When certificates expire.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use podgate_api::CertificateStatus;
use x509_cert::Certificate;
use x509_cert::der::DecodePem;

/// The state of the certificate in a PEM file: the first one of it, which is the presented one.
pub(crate) fn of_file(name: &str, path: &Path) -> CertificateStatus {
    let read = fs::read(path).with_context(|| format!("can't read {}", path.display()));
    status(name, read.and_then(|pem| expiry(&pem)))
}

/// The same of PEM text.
pub(crate) fn of_pem(name: &str, pem: &[u8]) -> CertificateStatus {
    status(name, expiry(pem))
}

fn status(name: &str, expires: Result<u64>) -> CertificateStatus {
    let problem = expires.as_ref().err().map(|error| format!("{error:#}"));
    CertificateStatus { name: name.to_owned(), expires_s: expires.ok(), problem }
}

/// When the first certificate of a PEM text expires (RFC 5280 §4.1.2.5), seconds since 1970.
fn expiry(pem: &[u8]) -> Result<u64> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = std::str::from_utf8(pem).context("the certificate is no PEM text")?;
    let start = text.find(BEGIN).context("there is no certificate in the PEM text")?;
    let length = text[start..].find(END).context("the certificate's end is missing")?;
    let block = &text[start..start + length + END.len()];
    let certificate = Certificate::from_pem(block).context("the certificate is malformed")?;
    Ok(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650`.
    const CERTIFICATE: &str = include_str!("certificates/example.pem");

    #[test]
    fn the_first_certificate_of_a_file_counts() {
        let with_text = format!("subject=example\n{CERTIFICATE}{CERTIFICATE}");
        let status = of_pem("hubble-server", with_text.as_bytes());
        assert_eq!(status.problem, None);
        assert_eq!(status.expires_s, Some(EXPIRES));
    }

    #[test]
    fn what_is_no_certificate_has_a_reason() {
        for bad in [
            "",
            "-----BEGIN CERTIFICATE-----",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let status = of_pem("api-client", bad.as_bytes());
            assert_eq!(status.expires_s, None);
            assert!(status.problem.is_some(), "{bad}");
        }
        assert!(of_file("a", Path::new("/nonexistent")).problem.is_some());
    }

    /// What `openssl x509 -enddate` says.
    const EXPIRES: u64 = 2111311045;
}
