"""The listening socket."""

import asyncio
import socket

from yearling.server.config import ServerConfig
from yearling.server.listener import bind


async def test_connections_send_without_delay() -> None:
    """Else the kernel holds back an answer's second write until the first is acknowledged."""
    found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connection = transport.get_extra_info("socket")
            found.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            assert isinstance(transport, asyncio.Transport)
            transport.close()

    with bind(ServerConfig(port=0)) as listener:
        server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await asyncio.wait_for(found, 5) != 0
            writer.close()
