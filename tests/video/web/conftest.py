"""A page served from this process, and frames for it."""

from __future__ import annotations

import datetime
import ipaddress
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from mirnet_edge.video.frames import DisplayedFrame, LiveStatus, VideoFrame
from mirnet_edge.video.live.controls import Controls

pytest.importorskip("aiohttp", reason='needs pip install "mirnet-edge[web]"')
pytest.importorskip("aiortc", reason='needs pip install "mirnet-edge[web]"')


def shown_of(index, *, height=48, width=64, before=20, after=120, **changes):
    """Return what a sink gets: two flat images; CHANGES are made to the status."""
    status = LiveStatus(
        fps=30.0, age_ms=20.0, age_p95_ms=25.0, restore_ms=5.0, captured=index + 1, shown=index + 1,
        dropped=0, failed=0, configuration="null:fp32", configurations=("null:fp32", "null:int8"),
        restoring=True,
        frozen=False, recording=False, snapshots=0, note="",
    )  # fmt: skip
    status = replace(status, **changes)
    return DisplayedFrame(
        before=VideoFrame(
            pixels=np.full((height, width, 3), before, np.uint8), index=index, captured_s=0.0
        ),
        after=np.full((height, width, 3), after, np.uint8),
        restored=True,
        status=status,
    )


@pytest.fixture(scope="session")
def make_shown():
    return shown_of


@pytest.fixture
def serving():
    """Serve a page: `with serving(token="secret") as (sink, controls):`."""
    from mirnet_edge.video.web.server import WebSink

    @contextmanager
    def serve(**options):
        controls = Controls(("null:fp32", "null:int8"))
        with WebSink(controls, port=0, **options) as sink:
            yield sink, controls

    return serve


@pytest.fixture
def make_certificate():
    """Write certificate.pem and key.pem: make_certificate(folder, passphrase=b"", host="::1")."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def written(folder, *, passphrase=None, host="127.0.0.1"):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        locked = serialization.NoEncryption()
        if passphrase:
            locked = serialization.BestAvailableEncryption(passphrase)
        folder.mkdir(exist_ok=True)
        paths = folder / "certificate.pem", folder / "key.pem"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        )
        return paths

    return written
