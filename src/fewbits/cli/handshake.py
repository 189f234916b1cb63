"""Try a SuperNode's TLS handshake. Flower's error shows neither certificate; this module prints both."""

from __future__ import annotations

import socket
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.errors import LocalError, WireError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, Name

SECONDS = 10.0  # limit of a connection
NONE = "no name"


def handshake(address: str, authority: Path) -> str:
    """Both certificates and whether they match, as a sentence; WireError when they do not match.

    `address`: HOST:PORT of a SuperLink. `authority`: the PEM file that a SuperNode gets as --root-certificates.
    """
    if find_spec("cryptography") is None:
        raise LocalError("certificates are read with what comes with Flower: pip install 'fewbits[flower]'")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise LocalError(f"an address is HOST:PORT, as in superlink.example:8000; got {address!r}")
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # read it, for any signer
    shown, expected = _load(_shown(host, int(port), trusting), address), _read(authority)
    pair = f"{address} shows {_described(shown)}; {authority} holds {', and '.join(map(_authority, expected))}"
    try:
        _shown(host, int(port), ssl.create_default_context(cafile=authority))
    except ssl.SSLCertVerificationError as error:
        raise WireError(f"the certificate does not match ({error.verify_message}): {pair}") from None
    return f"the certificate matches: {pair}"


def _shown(host: str, port: int, context: ssl.SSLContext) -> bytes:
    """The certificate of the other side after a handshake in this context."""
    try:
        plain = socket.create_connection((host, port), SECONDS)
        with plain, context.wrap_socket(plain, server_hostname=host) as secure:
            return secure.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLError, OSError) as error:
        raise WireError(f"no TLS handshake with {host}:{port}: {error}") from None


def _load(data: bytes, owner: str) -> Certificate:
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise WireError(f"{owner} shows a certificate that cannot be read: {error}") from None


def _read(path: Path) -> list[Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise LocalError(f"{path} holds no certificate in PEM: {error}") from None


def _described(found: Certificate) -> str:
    """Its names, the end of its validity, and its signer."""
    from cryptography.x509 import AuthorityKeyIdentifier, SubjectAlternativeName

    names = [str(name.value) for each in _extensions(found, SubjectAlternativeName) for name in each]
    signed = next((each.key_identifier for each in _extensions(found, AuthorityKeyIdentifier)), None)
    until = found.not_valid_after_utc.date()
    return f"one for {', '.join(names) or NONE} until {until}, signed by {_name(found.issuer)} {_key(signed)}"


def _authority(found: Certificate) -> str:
    from cryptography.x509 import SubjectKeyIdentifier

    digest = next((each.digest for each in _extensions(found, SubjectKeyIdentifier)), None)
    return f"{_name(found.subject)} {_key(digest)}"


def _extensions(found: Certificate, kind: type) -> list[Any]:
    return [each.value for each in found.extensions if isinstance(each.value, kind)]


def _name(name: Name) -> str:
    return repr(name.rfc4514_string())


def _key(identifier: bytes | None) -> str:
    """The key identifier, which tells authorities of one name apart."""
    return f"(key {identifier.hex(':', 2)})" if identifier else "(no key identifier)"
