"""Let Python connect to this machine only.

Python imports a module of this name when it starts. A kernel that cannot have namespaces runs with this folder on
PYTHONPATH, which stands in for the missing network.
"""

import socket
from typing import Any

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _check(address: Any) -> None:
    if isinstance(address, tuple) and str(address[0]) not in ("localhost", "127.0.0.1", "::1"):
        raise OSError(f"no network in a rehearsal: connection to {address[0]} refused")


def _connect_here(self: socket.socket, address: Any) -> None:
    _check(address)
    _connect(self, address)


def _connect_ex_here(self: socket.socket, address: Any) -> int:
    _check(address)
    return _connect_ex(self, address)


setattr(socket.socket, "connect", _connect_here)  # noqa: B010, since mypy takes an assignment for a mistake
setattr(socket.socket, "connect_ex", _connect_ex_here)  # noqa: B010
