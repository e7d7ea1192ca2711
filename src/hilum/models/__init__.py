"""Backbones, necks, poolings and the localizing classifier made of them."""

from hilum.registry import Registry

BACKBONES = Registry(
    "backbone",
    {
        "residual": "hilum.models.backbones.residual:ResidualTrunk",
        "efficientnet_lite0": "hilum.models.backbones.efficientnet:EfficientNetLite0",
        "cbr": "hilum.models.backbones.cbr:CBR",
        "tuberculosis_net": "hilum.models.backbones.tuberculosis_net:TuberculosisNet",
        "densenet121": "hilum.models.backbones.densenet121:DenseNet121",
        "resnet": "hilum.models.backbones.resnet:ResNet",
        "patch_bag": "hilum.models.backbones.patch_bag:PatchBag",
    },
)

NECKS = Registry(
    "neck",
    {
        "none": "hilum.models.neck.base:NoNeck",
        "cross_scale_graph": "hilum.models.neck.cross_scale_graph:CrossScaleGraph",
        "triple_attention": "hilum.models.neck.triple_attention:TripleAttention",
        "conta": "hilum.models.neck.conta:Conta",
    },
)

INITIALIZATIONS = Registry(
    "initialization",
    {
        "none": "hilum.models.initialization.base:Initialization",
        "mean_var": "hilum.models.initialization.mean_var:MeanVar",
        "transfusion": "hilum.models.initialization.transfusion:Transfusion",
    },
)

POOLINGS = Registry(
    "pooling",
    {
        "mean": "hilum.models.pooling.mean:MeanPooling",
        "max": "hilum.models.pooling.max:MaxPooling",
        "top_k": "hilum.models.pooling.top_k:TopKPooling",
        "log_sum_exp": "hilum.models.pooling.log_sum_exp:LogSumExpPooling",
        "lse_lba": "hilum.models.pooling.lse_lba:LseLbaPooling",
        "linear_softmax": "hilum.models.pooling.linear_softmax:LinearSoftmaxPooling",
        "noisy_or": "hilum.models.pooling.noisy_or:NoisyOrPooling",
        "gated_attention": "hilum.models.pooling.gated_attention:GatedAttentionPooling",
        "dsmil": "hilum.models.pooling.dsmil:DsmilPooling",
        "transformer": "hilum.models.pooling.transformer:TransformerPooling",
    },
)
