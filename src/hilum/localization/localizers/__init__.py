"""Where a model sees a finding, by name: its own map, or one computed after the fact to compare with."""

from hilum.registry import Registry

LOCALIZERS = Registry(
    "localizer",
    {
        "map": "hilum.localization.localizers.base:Localizer",
        "cam": "hilum.localization.localizers.cams:Cam",
        "grad_cam": "hilum.localization.localizers.cams:GradCam",
        "grad_cam_pp": "hilum.localization.localizers.cams:GradCamPlusPlus",
        "saliency": "hilum.localization.localizers.saliency:Saliency",
        "masks": "hilum.localization.localizers.masks:Masks",
        "occlusion": "hilum.localization.localizers.occlusion:Occlusion",
    },
)
