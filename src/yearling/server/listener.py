"""Taking the server's address, before anything slow happens."""

import errno
import socket

from yearling.core.errors import ConfigError
from yearling.server.config import ServerConfig

__all__ = ["bind", "url_of"]


def bind(config: ServerConfig) -> socket.socket:
    """Take the address, without listening yet.

    Raises:
        ConfigError: the port is taken, or the address is not ours; the message says what to do.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio sends without delay only where the protocol is named; else every answer of two writes
    # waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise _bind_error(config, error) from None
    return listener


def _bind_error(config: ServerConfig, error: OSError) -> ConfigError:
    where = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"port {config.port} is taken: another program listens on {where}.\n"
            f"  Stop it, or choose another port: yearling serve --port {config.port + 1}"
        )
    if error.errno == errno.EACCES:
        return ConfigError(f"no permission to listen on {where}: choose a port above 1023.")
    return ConfigError(f"cannot listen on {where}: {error.strerror or error}.")


def url_of(listener: socket.socket) -> str:
    """The address to show and open.

    >>> with socket.create_server(("127.0.0.1", 0)) as listener:
    ...     url_of(listener).startswith("http://127.0.0.1:")
    True
    """
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
