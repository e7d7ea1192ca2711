"""Federated algorithms: the site's half and the server's half in one class, one file each."""

from hilum.registry import Registry

STRATEGIES = Registry(
    "strategy",
    {
        "fedavg": "hilum.federation.strategies.fedavg:FedAvg",
        "fedavgm": "hilum.federation.strategies.fedavgm:FedAvgM",
        "fedprox": "hilum.federation.strategies.fedprox:FedProx",
        "fedadam": "hilum.federation.strategies.fedadam:FedAdam",
        "fedyogi": "hilum.federation.strategies.fedyogi:FedYogi",
        "fednova": "hilum.federation.strategies.fednova:FedNova",
        "scaffold": "hilum.federation.strategies.scaffold:Scaffold",
        "silobn": "hilum.federation.strategies.silobn:SiloBN",
        "fedbn": "hilum.federation.strategies.fedbn:FedBN",
        "fedrep": "hilum.federation.strategies.fedrep:FedRep",
        "ditto": "hilum.federation.strategies.ditto:Ditto",
        "surgical": "hilum.federation.strategies.surgical:Surgical",
        "fedmlp": "hilum.federation.strategies.fedmlp:FedMLP",
        "fedlsm": "hilum.federation.strategies.fedlsm:FedLSM",
        "ciil": "hilum.federation.strategies.ciil:CIIL",
        "iil": "hilum.federation.strategies.iil:IIL",
    },
)

# What the name of a strategy says already of the other settings of a federation.
IMPLIED = {
    "silobn": {"normalization": "site"},
    "fedbn": {"normalization": "local"},
    "fedrep": {"head": "site"},
    "ditto": {"head": "shared"},
}

NORMALIZATION_POLICIES = {
    "averaged": "statistics are averaged like weights",
    "site": "a site goes on from its own statistics (SiloBN); a hospital that took no part gets their average",
    "local": "so with statistics, scale and shift (FedBN)",
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
