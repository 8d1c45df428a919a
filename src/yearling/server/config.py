"""What `yearling serve` can be told."""

import ipaddress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from yearling.core.config import Config
from yearling.core.errors import ConfigError
from yearling.server.limits import Limits
from yearling.serving.model import ModelOptions

__all__ = ["BackendSettings", "LoraSettings", "ServeSettings", "ServerConfig", "is_loopback"]


class ServerConfig(Config):
    """Address, keys and names of one server.

    Raises:
        ConfigError: the address can be reached from outside, and no key is set.
    """

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    api_keys: tuple[SecretStr, ...] = Field(
        default=(), description="Keys that clients may present; none means no key is needed."
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Names, beside the address, that clients may call the server by."
    )
    allows_lora_changes: bool = Field(
        default=False,
        description="Let clients load adapters from this machine's folders, and unload them.",
    )
    is_lenient: bool = Field(
        default=False,
        description="Pass over unsupported fields, and name them in a header.",
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


class LoraSettings(Config):
    """An adapter to serve from the start."""

    name: str = Field(min_length=1, max_length=256, description="As clients call it.")
    folder: Path = Field(description="In PEFT's format, as yearling train writes it.")
    base: str | None = Field(
        default=None, description="Name of the served model it is for; None takes the first."
    )


class BackendSettings(Config):
    """Another server whose models are served here as well."""

    url: str = Field(
        pattern=r"^https?://[^\s@?#]+$",
        description="Of its API, as in http://gpu-box:8000/v1; without a user, question or mark.",
    )
    key: SecretStr | None = Field(default=None, description="That it demands.")

    @property
    def owner(self) -> str:
        """Whose its models are: its host and port.

        >>> BackendSettings(url="http://gpu-box:8000/v1").owner
        'gpu-box:8000'
        """
        return urlsplit(self.url).netloc


class ServeSettings(Config):
    """Everything `yearling serve` can be told.

    Raises:
        ConfigError: two models would be served under one name.
    """

    models: tuple[str, ...] = Field(
        default=("smollm2",),
        description="Store names, GGUF files or folders; none where there is a backend.",
    )
    served_names: tuple[str, ...] = Field(
        default=(), description="Names clients use, one per model; none takes the models' own."
    )
    is_on_demand: bool = Field(
        default=False, description="Load a model for its first request, not at the start."
    )
    model_memory_mib: int | None = Field(
        default=None,
        ge=1,
        description="What models loaded on demand may take together; None takes four fifths of "
        "the free memory.",
    )
    loras: tuple[LoraSettings, ...] = Field(
        default=(), description="Adapters of low rank, each served as a model of its own name."
    )
    backends: tuple[BackendSettings, ...] = Field(
        default=(),
        description="Other servers that speak OpenAI's API, whose models are listed too.",
    )
    server: ServerConfig = Field(default_factory=ServerConfig, description="Address and keys.")
    engine: ModelOptions = Field(
        default_factory=ModelOptions, description="How every model is run."
    )

    @model_validator(mode="before")
    @classmethod
    def _backend_needs_no_model(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("backends") and "models" not in given:
            return {**given, "models": ()}
        return given

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "ServeSettings":
        if not self.models and not self.backends:
            raise ConfigError("there is no model to serve: name one, or a backend that has some.")
        if self.loras and not self.models:
            raise ConfigError("an adapter needs a model that is served here: name it.")
        if self.served_names and len(self.served_names) != len(self.models):
            raise ConfigError(
                f"{len(self.models)} models, but {len(self.served_names)} served names: "
                "give one per model, or none."
            )
        if self.model_memory_mib is not None and not self.is_on_demand:
            raise ConfigError(
                "model_memory_mib bounds what is loaded on demand: give --on-demand as well."
            )
        names = [*self.names, *(lora.name for lora in self.loras)]
        if len(set(names)) != len(names):
            raise ConfigError(f"two models would be called the same: {', '.join(names)}.")
        for lora in self.loras:
            if lora.base is not None and lora.base not in self.names:
                raise ConfigError(
                    f"adapter {lora.name}: no model served here is called {lora.base}; there is "
                    f"{', '.join(self.names)}."
                )
        return self

    def loras_of(self, name: str) -> tuple[LoraSettings, ...]:
        """The adapters of a served model."""
        return tuple(lora for lora in self.loras if (lora.base or self.names[0]) == name)

    @property
    def names(self) -> tuple[str, ...]:
        """What clients call each model: a file by its stem, anything else as it is.

        >>> ServeSettings(models=("smollm2", "models/tiny.gguf")).names
        ('smollm2', 'tiny')
        """
        return self.served_names or tuple(_own_name(model) for model in self.models)


def _own_name(model: str) -> str:
    if model.endswith(".gguf") and not model.startswith("hf:"):
        return Path(model).stem
    return Path(model).name if Path(model).is_absolute() else model


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
