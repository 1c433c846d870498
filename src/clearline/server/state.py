"""The life of a connection, as one explicit machine: every way to begin, to go on and to end."""

from enum import Enum

from clearline.errors import SessionError


class State(Enum):
    """OPENING: admitted, its state is being made. LIVE: frames flow. FINISHING: the client's input is over, what was heard is
    still answered. CLOSED: nothing is left of it."""

    OPENING = "opening"
    LIVE = "live"
    FINISHING = "finishing"
    CLOSED = "closed"


_NEXT = {
    State.OPENING: {State.LIVE, State.CLOSED},
    State.LIVE: {State.FINISHING, State.CLOSED},
    State.FINISHING: {State.CLOSED},
    State.CLOSED: set[State](),
}


class End(Enum):
    """Why a conversation ended, with the WebSocket close code that says so to the client."""

    FINISHED = ("finished", 1000)
    LEFT = ("client left", 1000)
    GOING_AWAY = ("server is going down", 1001)
    BAD_MESSAGE = ("bad message", 1007)
    BAD_SETTINGS = ("bad settings", 1008)
    STALLED = ("no sound from the client", 1008)
    SLOW_READER = ("client does not read", 1008)
    EXPIRED = ("longest conversation reached", 1008)
    FAILED = ("model failed", 1011)
    REFUSED = ("no room", 1013)

    def __init__(self, label: str, close_code: int) -> None:
        self.label = label
        self.close_code = close_code


class Lifecycle:
    """Holds the state; a step that is not in the table is an error in the server."""

    def __init__(self) -> None:
        self.state = State.OPENING

    def to(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise SessionError(f"a conversation cannot go from {self.state.value} to {state.value}")
        self.state = state
