"""`fewbits flower check`: what a SuperLink shows and what a file holds, before any SuperNode is started."""

import hashlib
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

import loopback
from fewbits.cli.app import app
from fewbits.cli.handshake import handshake
from fewbits.errors import LocalError, WireError


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two authorities of one name, each with a certificate for loopback: (certificate, key, authority)."""
    folders = [tmp_path_factory.mktemp(name) for name in ("ours", "theirs")]
    return [loopback.make_certificates(folder) for folder in folders]


@contextmanager
def listening(certificate, key, host="127.0.0.1"):
    """A port that shows this certificate to whoever comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server((host, 0))

    def serve():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), context.wrap_socket(peer, server_side=True) as secure:
                secure.recv(1)  # until the other side has seen enough

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def key_of(authority) -> str:
    """The identifier of its key: SHA-1 of the bits (RFC 5280, 4.2.1.2)."""
    found = x509.load_pem_x509_certificate(authority.read_bytes()).public_key()
    return hashlib.sha1(found.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).digest().hex(":", 2)


def test_a_certificate_that_matches_is_said_to(certificates):
    (certificate, key, authority), _ = certificates
    with listening(certificate, key) as port:
        found = handshake(f"127.0.0.1:{port}", authority)
    assert found.startswith("the certificate matches")
    assert found.count(key_of(authority)) == 2


def test_a_certificate_of_another_authority_is_told_with_both_keys(certificates):
    (certificate, key, ours), (_, _, theirs) = certificates
    with listening(certificate, key) as port, pytest.raises(WireError, match="does not match") as error:
        handshake(f"127.0.0.1:{port}", theirs)
    assert f"signed by 'CN=fewbits loopback CA' (key {key_of(ours)})" in str(error.value)
    assert f"{theirs} holds 'CN=fewbits loopback CA' (key {key_of(theirs)})" in str(error.value)


def test_a_certificate_for_another_host_is_told_with_both_names(certificates):
    (certificate, key, authority), _ = certificates
    with listening(certificate, key, "127.0.0.2") as port, pytest.raises(WireError) as error:
        handshake(f"127.0.0.2:{port}", authority)
    assert "IP address mismatch, certificate is not valid for '127.0.0.2'" in str(error.value)
    assert "shows one for localhost, 127.0.0.1 until" in str(error.value)


def test_the_command_ends_with_the_sentence(certificates):
    (certificate, key, _), (_, _, theirs) = certificates
    with listening(certificate, key) as port:
        found = CliRunner().invoke(app, ["flower", "check", f"127.0.0.1:{port}", "--root-certificates", str(theirs)])
    assert found.exit_code == 1
    assert "the certificate does not match" in found.output


@pytest.mark.parametrize("address", ["8000", "host", "host:", "host:99999", "host:x"])
def test_what_is_no_address_is_refused(address, certificates):
    with pytest.raises(LocalError, match="HOST:PORT"):
        handshake(address, certificates[0][2])


def test_a_port_without_tls_and_a_file_without_certificates_are_told_in_words(tmp_path, certificates):
    (certificate, key, authority), _ = certificates
    free = loopback.free_port()
    with pytest.raises(WireError, match="no TLS handshake"):
        handshake(f"127.0.0.1:{free}", authority)
    (tmp_path / "empty.pem").write_text("nothing")
    with listening(certificate, key) as port, pytest.raises(LocalError, match="no certificate in PEM"):
        handshake(f"127.0.0.1:{port}", tmp_path / "empty.pem")
