"""Certificates made for one test run."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.ssl import CertificateOptions, TLSVersion

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of our own."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, path: Path) -> str:
        """Its certificate as a PEM file."""
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)

    def server_options(
        self,
        *names: str,
        expired: bool = False,
        alpn: list[bytes] | None = None,
        newest: TLSVersion = TLSVersion.TLSv1_3,
    ) -> CertificateOptions:
        """A TLS server, in Twisted's way, with a certificate for ``names`` (DNS names or IP addresses).

        ``alpn``: the protocols that it speaks; None for a server that does not know ALPN.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(names[0], key, self, list(names), expired)
        options = CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(key),
            certificate=crypto.X509.from_cryptography(certificate),
            enableSessions=True,
            acceptableProtocols=alpn,
            insecurelyLowerMinimumTo=TLSVersion.TLSv1_2,
            lowerMaximumSecurityTo=newest if newest is not TLSVersion.TLSv1_3 else None,
        )
        context: SSL.Context = options.getContext()
        context.set_session_id(b"tests")
        if alpn is None:
            # Twisted's default callback refuses every client that offers ALPN.
            context.set_alpn_select_callback(lambda connection, offered: SSL.NO_OVERLAPPING_PROTOCOLS)
        return options


@functools.cache
def make_authority() -> Authority:
    """One authority is enough for all tests."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(_certificate("Test Authority", key, None, [], False), key)


def _certificate(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Authority | None,
    names: list[str],
    expired: bool,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    start = now - 10 * _DAY
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _DAY if expired else now + _DAY)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        builder = (
            builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
            )
        )
    return builder.sign(key if issuer is None else issuer.key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
