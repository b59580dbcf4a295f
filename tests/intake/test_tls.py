"""Servers with TLS: whose certificates are taken, and what a wrong one leads to."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tasks.net import untrusted
from tests.kits.http.intake import BROKE, LATER, NEVER, HostileServer, answer, nothing_is_left

pytestmark = pytest.mark.timeout(60)


class TestTls:
    """The name in the certificate is the name in the address; a port without TLS is no server."""

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> tuple[Path, Path]:
        """Self-signed for 127.0.0.1 and other.test."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostile")])
        now = datetime.now(UTC)
        names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("other.test")]
        built = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        certificate, private = tmp_path / "certificate.pem", tmp_path / "key.pem"
        certificate.write_bytes(built.public_bytes(pem))
        private.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
        )
        return certificate, private

    @pytest.fixture
    def tls_server(self, server: HostileServer, certificate: tuple[Path, Path]) -> HostileServer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.wrap(context)
        server.play("/a.mp4", answer(body=b"video"))
        return server

    def test_a_certificate_nobody_signed(self, tls_server, trusting, refused) -> None:
        url = f"https://{tls_server.host}/a.mp4"
        refused(trusting, NEVER, "certificate is not trusted .*self.signed", video_url=url)
        assert nothing_is_left(trusting)

    def test_a_certificate_for_another_name(
        self, tls_server, settings_with, refused, obtained, resolver, certificate, monkeypatch
    ) -> None:
        trusted = ssl.create_default_context(cafile=certificate[0])
        monkeypatch.setattr(untrusted, "tls_context", lambda: trusted)
        settings = settings_with(fetch_allow=("good.test", "other.test"))
        for name in ("good.test", "other.test"):
            resolver.name(name, ["127.0.0.1"])
        wrong = f"https://good.test:{tls_server.port}/a.mp4"
        refused(settings, NEVER, "certificate is not trusted .*good.test", video_url=wrong)
        right = f"https://other.test:{tls_server.port}/a.mp4"
        assert obtained(settings, video_url=right).num_bytes == 5

    def test_tls_to_a_plain_port(self, server: HostileServer, trusting, refused) -> None:
        refused(trusting, LATER, "no connection for", video_url=f"https://{server.host}/a.mp4")
        assert nothing_is_left(trusting)

    def test_plain_to_a_tls_port(self, tls_server, trusting, refused) -> None:
        refused(trusting, LATER, BROKE, video_url=f"http://{tls_server.host}/a.mp4")
        assert nothing_is_left(trusting)
