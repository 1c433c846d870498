"""Other implementations of the same models, each in an environment of its own, run by subprocess."""

from clearline.lab.adapters.find import Installed, find_peers, interpreters
from clearline.lab.adapters.peers import PEERS, Peer
from clearline.lab.adapters.run import peer_layers, run_peer

__all__ = ["PEERS", "Installed", "Peer", "find_peers", "interpreters", "peer_layers", "run_peer"]
