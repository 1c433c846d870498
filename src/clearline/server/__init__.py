"""The server: conversations over the network, scheduled over one machine. Needs the extra `server`.

Lowest first: limits, state, deadlines, capacity and scheduler; conversation, offer and hub on top of them, which know no network;
protocols, which know no sockets; connection and app, which bring them together; run, which starts and stops it all.
"""

import importlib.util

from clearline.errors import ConfigError

_NEEDED = ("starlette", "uvicorn", "websockets", "sphn", "prometheus_client", "cryptography")


def require() -> None:
    """Raise ConfigError, with how to mend it, when a package of the extra is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the server needs {', '.join(missing)}: install them with pip install 'clearline[server]'")
