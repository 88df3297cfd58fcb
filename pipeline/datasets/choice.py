"""Every source that a config can name. Importing it loads no library that computes."""

from pipeline.datasets.archive import Archive
from pipeline.datasets.cifar import Cifar
from pipeline.datasets.digits import Digits
from pipeline.datasets.flowers import Flowers
from pipeline.datasets.folder import Folder
from pipeline.datasets.fractals import Fractals
from pipeline.datasets.idx import Idx
from pipeline.datasets.imagenet import Imagenet
from pipeline.datasets.imagenet_real import ImagenetReal
from pipeline.datasets.imagenet_v2 import ImagenetV2
from pipeline.datasets.pets import Pets
from pipeline.datasets.smallnorb import SmallNorb
from pipeline.datasets.table import Table
from pipeline.datasets.tfds import Tfds
from pipeline.datasets.vtab import Vtab
from pipeline.datasets.webshards import WebShards

Computed = Fractals | Digits
Gathered = Folder | Archive | Table | WebShards | Tfds
Benchmark = Cifar | Flowers | Idx | Imagenet | ImagenetReal | ImagenetV2 | Pets | SmallNorb | Vtab

Choice = Computed | Gathered | Benchmark
