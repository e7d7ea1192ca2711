"""Federated algorithms: the site's half and the server's half in one class, one file each."""

from hilum.registry import Registry

STRATEGIES = Registry("strategy", {"fedavg": "hilum.federation.strategies.fedavg:FedAvg"})
