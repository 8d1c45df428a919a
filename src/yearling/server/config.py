"""What `yearling serve` can be told."""

import ipaddress

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from yearling.core.errors import ConfigError
from yearling.server.limits import Limits

__all__ = ["ServerConfig", "is_loopback"]


class ServerConfig(BaseModel):
    """Address, keys and names of one server.

    Raises:
        ConfigError: the address can be reached from outside, and no key is set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    api_keys: tuple[SecretStr, ...] = Field(
        default=(), description="Keys that clients may present; none means no key is needed."
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Names, beside the address, that clients may call the server by."
    )
    limits: Limits = Field(default_factory=Limits, description="Bounds; see limits.py.")

    @model_validator(mode="after")
    def _outside_needs_a_key(self) -> "ServerConfig":
        if not is_loopback(self.host) and not self.api_keys:
            raise ConfigError(
                f"host={self.host} can be reached from other machines, and no API key is set.\n"
                "  Give --api-key KEY (or the variable YEARLING_API_KEY), or listen on 127.0.0.1."
            )
        if not all(key.get_secret_value().strip() for key in self.api_keys):
            raise ConfigError("An API key is blank: give one that is hard to guess.")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, False, True)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
