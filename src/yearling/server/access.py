"""Who may use the server: names it answers to, pages it listens to, keys it accepts.

A page on another site can make a visitor's browser call a local server (and, by rebinding a
DNS name, read the answers). So an unknown `Host` and a foreign `Origin` are refused on every
address, and no answer ever grants another origin anything.
"""

import hashlib
import hmac
import ipaddress
import re
import socket

from starlette.datastructures import Headers

from yearling.server.config import ServerConfig, is_loopback
from yearling.server.errors import HttpError
from yearling.wire.openai.errors import ErrorReply

__all__ = ["Access"]

_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")


class Access:
    """Decides about Host, Origin and key from the configuration; holds key digests only."""

    def __init__(self, config: ServerConfig) -> None:
        self._is_local = is_loopback(config.host)
        self._names = frozenset(name.lower() for name in (*config.allowed_hosts, "localhost"))
        if not self._is_local:
            self._names |= {config.host.lower(), socket.gethostname().lower()}
        self._digests = tuple(_digest(key.get_secret_value()) for key in config.api_keys)

    @property
    def needs_key(self) -> bool:
        """Whether clients must present a key."""
        return bool(self._digests)

    def check_address(self, headers: Headers) -> None:
        """Refuse a request that was not meant for this server, or that a foreign page makes.

        Raises:
            HttpError: 421 for an unknown Host, 403 for a foreign Origin.
        """
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._knows(hosts[0]):
            raise HttpError(
                ErrorReply(
                    421,
                    "The Host header names no address of this server. If you call it by another "
                    "name on purpose, start it with --allowed-host NAME.",
                    code="unknown_host",
                )
            )
        origins = headers.getlist("origin")
        if any(not _is_same_origin(origin, hosts[0]) for origin in origins):
            raise HttpError(
                ErrorReply(
                    403, "Pages of other origins may not use this server.", code="foreign_origin"
                )
            )

    def check_key(self, headers: Headers) -> str:
        """Check the bearer key and give the salt of its account's cached blocks.

        Raises:
            HttpError: 401 when a key is needed and the right one is not there.
        """
        if not self._digests:
            return ""
        values = headers.getlist("authorization")
        # Anthropic's clients have a header of their own for it, and may send both.
        named = [f"Bearer {key}" for key in headers.getlist("x-api-key")]
        values += [value for value in named if value not in values]
        scheme, _, key = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        if scheme.lower() == "bearer":
            digest = _digest(key.strip())
            # Every digest is compared, so that time says nothing about which one matched.
            matches = [hmac.compare_digest(digest, known) for known in self._digests]
            if any(matches):
                return hashlib.sha256(b"salt:" + digest).hexdigest()[:32]
        raise HttpError(_missing_key() if not values else _wrong_key())

    def _knows(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].lower()
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        # No DNS name can be rebound to make a browser send an address as Host.
        return address.is_loopback or not self._is_local


def _is_same_origin(origin: str, host: str) -> bool:
    scheme, separator, rest = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and rest.lower() == host.lower()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _missing_key() -> ErrorReply:
    return ErrorReply(
        401,
        "This server needs an API key, sent as 'Authorization: Bearer KEY'.",
        "authentication_error",
        "missing_api_key",
    )


def _wrong_key() -> ErrorReply:
    return ErrorReply(401, "That API key is not valid.", "authentication_error", "invalid_api_key")
