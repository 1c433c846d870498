"""What Prometheus can ask about: sessions, frame times, missed deadlines."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from clearline.server.conversation import Conversation
from clearline.server.deadlines import Fate
from clearline.server.hub import Hub

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.32, 0.64, 1.28)


class Metrics:
    """The hub's observer. A registry of its own, so that two servers in one process do not count together."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._steps = Histogram("clearline_step_seconds", "Time of one step.", ["model"], buckets=_SECONDS, registry=registry)
        self._latency = Histogram(
            "clearline_frame_latency_seconds", "From a frame heard to its answer.", buckets=_SECONDS, registry=registry
        )
        self._late = Counter("clearline_missed_deadlines", "Frames answered after their 80 ms.", registry=registry)
        self._underruns = Counter("clearline_underruns", "Times a reply ran dry by the server's fault.", registry=registry)
        self._stalls = Counter("clearline_stalls", "Times a reply ran dry because its client's sound came late.", registry=registry)
        self._opened = Counter("clearline_sessions_opened", "Sessions let in.", ["protocol"], registry=registry)
        self._refused = Counter("clearline_sessions_refused", "Sessions turned away.", registry=registry)
        self._closed = Counter("clearline_sessions_closed", "Sessions closed, by reason.", ["reason"], registry=registry)
        self._sessions = Gauge("clearline_sessions", "Sessions open now.", ["model"], registry=registry)
        self._room = Gauge(
            "clearline_room", "Sessions this machine holds, if all to come are with this model.", ["model"], registry=registry
        )
        self._load = Gauge("clearline_load", "Share of the workers' time the open sessions take.", registry=registry)
        self._waiting = Gauge("clearline_waiting_frames", "Frames heard and not yet answered.", registry=registry)

    def watch(self, hub: Hub) -> None:
        """Read these from the hub whenever they are asked for."""
        for name in hub.offers:
            self._sessions.labels(name).set_function(partial(hub.sessions_with, name))
            self._room.labels(name).set_function(partial(hub.room, name))
        self._load.set_function(lambda: hub.load)
        self._waiting.set_function(lambda: sum(conversation.waiting for conversation in hub.conversations))

    def stepped(self, model: str, step_seconds: float, latency_seconds: float, fate: Fate) -> None:
        self._steps.labels(model).observe(step_seconds)
        self._latency.observe(latency_seconds)
        self._late.inc(fate.late)
        self._underruns.inc(fate.underrun)
        self._stalls.inc(fate.stall)

    def opened(self, protocol: str) -> None:
        self._opened.labels(protocol).inc()

    def refused(self) -> None:
        self._refused.inc()

    def closed(self, conversation: Conversation) -> None:
        ended = conversation.ended
        self._closed.labels(ended.why.label if ended else "unknown").inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
