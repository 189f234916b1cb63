"""`fewbits gossip`: training without a server."""

from fewbits.cli.gossip.command import gossip

__all__ = ["gossip"]
