"""The child's side of the socket, without a child."""

import socket

import pytest

from yearling.serving.messages import Cancel, Stop, encode_frame
from yearling.serving.worker_process import SocketChannel


def test_receive_takes_all_that_has_arrived_and_never_waits_when_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = SocketChannel(theirs)
        assert channel.receive(is_blocking=False) == []
        data = encode_frame(Cancel("a")) + encode_frame(Stop())
        ours.sendall(data[:-1])
        assert channel.receive(is_blocking=True) == [Cancel("a")]
        ours.sendall(data[-1:])
        assert channel.receive(is_blocking=False) == [Stop()]


def test_closed_socket_ends_the_worker() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        channel = SocketChannel(theirs)
        with pytest.raises(EOFError):
            channel.receive(is_blocking=True)
        with pytest.raises(EOFError):
            channel.send(Stop())  # type: ignore[arg-type]
