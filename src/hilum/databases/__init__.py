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
        "folder": "hilum.databases.folder:Folder",
        "phantom": "hilum.databases.phantom:Phantom",
    },
)
