"""What makes the page https: a certificate that somebody made, and how to make one.

None is made here: a browser asks whether to trust it, and only who made it can say so.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from pathlib import Path

_FILE, _KEY = "certificate.pem", "key.pem"


def secured_by(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return what a server serves https with.

    Args:
        certificate: PEM; the chain, with the server's own first.
        key: PEM, without a passphrase; None where it is in the certificate's file.

    Raises:
        OptionError: They cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    named = f"--certificate {certificate}{'' if key is None else f' --key {key}'}"
    try:
        # without a passphrase given here OpenSSL would ask for one on the terminal, and wait
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise OptionError(
            f"{named}: expected a certificate and its key without passphrase, both PEM, found: "
            f"{reason}. Make both with: {openssl_command('127.0.0.1')}"
        ) from error
    return context


def openssl_command(host: str) -> str:
    """Return the command that makes a certificate for an address, and its key, for a year."""
    kind = "IP" if host.replace(".", "").isdecimal() or ":" in host else "DNS"
    return (
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 365 -keyout {_KEY} -out {_FILE} "
        f"-subj /CN={host.strip('[]')} -addext subjectAltName={kind}:{host.strip('[]')}"
    )


def advice(host: str) -> str:
    """Return in one line what makes a page at HOST https, which browsers give their camera to."""
    return f"{openssl_command(host)}, then mirnet-webcam --certificate {_FILE} --key {_KEY}"
