"""Runtimes: which sites are there, and exchange these tasks for replies."""

from hilum.registry import Registry

RUNTIMES = Registry("runtime", {"in_process": "hilum.federation.runtimes.in_process:InProcess"})
