"""Who sends a model to whom, one file each."""

from hilum.registry import Registry

TOPOLOGIES = Registry(
    "topology",
    {
        "star": "hilum.federation.topology.star:Star",
        "ring": "hilum.federation.topology.ring:Ring",
        "hierarchy": "hilum.federation.topology.hierarchy:Hierarchy",
        "gossip": "hilum.federation.topology.gossip:Gossip",
    },
)
