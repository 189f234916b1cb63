"""Outer steps among ranks that come and go: who is there, what they decide, and how a newcomer gets the model."""

from fewbits.engines.distributed.elastic.elastic_ranks import ElasticRanks
from fewbits.engines.distributed.elastic.options import Elastic

__all__ = ["Elastic", "ElasticRanks"]
