"""ADE20K-Full, A-847: images and label maps, short side 512 if it is longer.

reads   ADE20K_2021_17_01/images/ADE/**, ADE20K_2021_17_01/index_ade20k.pkl if it is there
writes  ADE20K_2021_17_01/images_detectron2/{training,validation}/*.jpg
        ADE20K_2021_17_01/annotations_detectron2/{training,validation}/*.tif
                                                              0-846, 65535 unlabelled, 16 bits
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.preparing.ade20k_full import plan
from ita.data.preparing.command import main

if __name__ == "__main__":
    sys.exit(main(__doc__, plan))
