"""Post-processors that make a site's update smaller on its way to the server, one file each."""

from hilum.registry import Registry

COMPRESSIONS = Registry(
    "compression",
    {
        "none": "hilum.federation.compression.base:Compression",
        "bf16": "hilum.federation.compression.bf16:BFloat16",
        "int8": "hilum.federation.compression.int8:Int8",
        "top_k": "hilum.federation.compression.top_k:TopK",
    },
)
