"""Address of a broker, read from its URL."""

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from citybeat.devices.wire.mqtt import Version
from citybeat.simulator.errors import AddressError, PublishError


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Address of a broker, with TLS and the version of MQTT."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    version: Version

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def address(url: str, *, version: Version = Version.V5, ca: str | None = None) -> Address:
    """Read mqtt://host[:port], or mqtts:// for TLS.

    Parameters
    ----------
    url : str
        A user and a password in it are not used.
    version : Version
    ca : str, optional
        File of certificates that sign the broker's; default: the system's.

    Raises
    ------
    AddressError
        The URL is malformed.
    PublishError
        The file of certificates cannot be used.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise AddressError(f"not the URL of an MQTT broker: {exc}") from None
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
        raise AddressError("not the URL of an MQTT broker: mqtt://host:port is expected")  # it may hold a password: not shown
    context = None
    if parts.scheme == "mqtts":
        try:
            context = ssl.create_default_context(cafile=ca)
        except OSError as exc:
            raise PublishError(f"the certificates in {ca} cannot be used: {exc}") from exc
    return Address(host=parts.hostname, port=port or (8883 if context else 1883), tls=context, version=version)
