"""Reading no faster than a rate: what comes faster waits in the client."""

import asyncio
import time


class Pace:
    """A bucket of one second's worth of messages, filled at `per_second`."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._left = per_second
        self._since = time.monotonic()

    async def wait(self) -> None:
        """Take one message out of the bucket, waiting while it is empty."""
        now = time.monotonic()
        self._left = min(self._per_second, self._left + (now - self._since) * self._per_second)
        self._since = now
        self._left -= 1
        if self._left < 0:
            await asyncio.sleep(-self._left / self._per_second)
