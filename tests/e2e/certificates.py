"""Certificates of an authority of our own, made with the ``openssl`` program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate and its key, in files.

    Attributes:
        certificate: Path of the certificate.
        key: Path of the key.
    """

    certificate: Path
    key: Path

    @property
    def for_collector(self) -> dict[str, str]:
        """The ``tls`` settings of a receiver."""
        return {"cert_file": str(self.certificate), "key_file": str(self.key)}


class Authority:
    """Signs certificates.

    Args:
        folder: For its files.

    Attributes:
        certificate: Path of the certificate to trust.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._openssl("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Authority")

    def issue(self, name: str, *hosts: str) -> Certificate:
        """Make a certificate.

        Args:
            name: Of its files.
            *hosts: What it is for: ``DNS:localhost``, ``IP:127.0.0.1``.
        """
        (self._folder / f"{name}.cnf").write_text(f"subjectAltName={','.join(hosts)}\nextendedKeyUsage=serverAuth\n")
        self._openssl("req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", f"{name}.cnf", "-out", f"{name}.pem",
        )  # fmt: skip
        return Certificate(certificate=self._folder / f"{name}.pem", key=self._folder / f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self._folder, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
