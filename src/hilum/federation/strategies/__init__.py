"""Federated algorithms: the site's half and the server's half in one class, one file each."""

from hilum.registry import Registry

STRATEGIES = Registry("strategy", {"fedavg": "hilum.federation.strategies.fedavg:FedAvg"})

NORMALIZATION_POLICIES = {
    "averaged": "statistics are averaged like weights",
    "site": "statistics stay at the site (SiloBN); the server keeps their average for hospitals it never saw",
    "recalibrated": "averaged in training, then estimated anew at each site with the final weights",
    "frozen": "the trunk keeps the statistics it came with",
}

HEADS = {
    "shared": "every hospital uses the same head rows",
    "site": "a hospital that has both classes of a finding keeps its own row (FedPer); an image elsewhere meets those "
    "of the hospitals that it looks like",
}

WEIGHTINGS = {
    "known": "a site weighs its images, in a head row its known labels",
    "contrast": "a site weighs positives × negatives / known labels: one class alone has no contrast to teach",
}
