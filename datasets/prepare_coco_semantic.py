"""COCO 2017: semantic label maps from the panoptic ones.

reads   coco/annotations/panoptic_{train,val}2017.json, coco/panoptic_{train,val}2017/*.png
writes  coco/panoptic_semseg_{train,val}2017/*.png     0-132, 255 unlabelled

Optional: without them the labels are made from the panoptic files whenever they are read.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.preparing.coco import plan
from ita.data.preparing.command import main

if __name__ == "__main__":
    sys.exit(main(__doc__, plan))
