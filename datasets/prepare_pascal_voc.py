"""PASCAL VOC 2012, PAS-21 and PAS-20.

reads   VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}
writes  pascal_voc_d2/images/{training,validation}/*.jpg      links
        pascal_voc_d2/annotations_pascal21/{training,validation}/*.png    0-20, 255 void
        pascal_voc_d2/annotations_pascal20/{training,validation}/*.png    0-19, 255 void and
                                                                          background
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.preparing.command import main
from ita.data.preparing.pascal_voc import plan

if __name__ == "__main__":
    sys.exit(main(__doc__, plan))
