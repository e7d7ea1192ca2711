"""Partitioners: how one database is cut into sites; named as in Flower Datasets."""

from hilum.registry import Registry

PARTITIONERS = Registry(
    "partitioner",
    {
        "natural_id": "hilum.sites.partitioners.natural_id:NaturalIdPartitioner",
        "view": "hilum.sites.partitioners.view:ViewPartitioner",
        "iid": "hilum.sites.partitioners.iid:IidPartitioner",
        "dirichlet": "hilum.sites.partitioners.dirichlet:DirichletPartitioner",
        "shard": "hilum.sites.partitioners.shard:ShardPartitioner",
        "size": "hilum.sites.partitioners.size:SizePartitioner",
        "linear": "hilum.sites.partitioners.linear:LinearPartitioner",
        "square": "hilum.sites.partitioners.square:SquarePartitioner",
        "exponential": "hilum.sites.partitioners.exponential:ExponentialPartitioner",
    },
)
