"""The databases hilum reads, each in its official layout: one file and one line."""

from hilum.registry import Registry

DATABASES = Registry(
    "database",
    {
        "nih14": "hilum.databases.nih14:NIH14",
        "shenzhen": "hilum.databases.shenzhen:Shenzhen",
        "tbx11k": "hilum.databases.tbx11k:TBX11K",
        "kermany": "hilum.databases.kermany:Kermany",
        "hannover": "hilum.databases.hannover:Hannover",
        "chexpert": "hilum.databases.chexpert:CheXpert",
        "chexlocalize": "hilum.databases.chexlocalize:CheXlocalize",
        "mimic_cxr": "hilum.databases.mimic_cxr:MIMICCXR",
        "padchest": "hilum.databases.padchest:PadChest",
        "openi": "hilum.databases.openi:OpenI",
        "vindr": "hilum.databases.vindr:VinDr",
        "rsna": "hilum.databases.rsna:RSNA",
        "siim": "hilum.databases.siim:SIIM",
        "nih14_google": "hilum.databases.nih14_google:NIH14Google",
        "aiforcovid": "hilum.databases.aiforcovid:AIforCOVID",
        "brixia": "hilum.databases.brixia:Brixia",
        "montgomery": "hilum.databases.montgomery:Montgomery",
        "folder": "hilum.databases.folder:Folder",
        "dicom": "hilum.databases.dicom:DicomFolder",
        "phantom": "hilum.databases.phantom:Phantom",
    },
)
