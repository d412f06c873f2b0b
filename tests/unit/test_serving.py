"""Options that connections inherit from the API's listener."""

import socket

from citybeat.commands.serving import drop_stalled, send_at_once


def test_connections_send_at_once_and_stalled_ones_are_dropped():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        drop_stalled(listener, 120.0)
        send_at_once(listener)
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server:
                assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
            assert client.fileno() >= 0
