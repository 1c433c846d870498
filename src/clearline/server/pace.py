"""Reading no faster than a rate: what comes faster waits in the client."""

import asyncio
import time

from clearline.server.scheduler import Clock


class Pace:
    """A bucket of one second's worth of messages, filled at `per_second`."""

    def __init__(self, per_second: float, clock: Clock = time.monotonic) -> None:
        self._per_second = per_second
        self._left = per_second
        self._clock = clock
        self._since = clock()

    async def wait(self) -> None:
        """Take one message out of the bucket, waiting while it is empty."""
        now = self._clock()
        self._left = min(self._per_second, self._left + (now - self._since) * self._per_second)
        self._since = now
        self._left -= 1
        if self._left < 0:
            await asyncio.sleep(-self._left / self._per_second)
