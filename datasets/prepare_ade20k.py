"""ADE20K scene parsing, A-150: semantic, panoptic and instance files.

reads   ADEChallengeData2016/{images,annotations,annotations_instance}/{training,validation}
writes  ADEChallengeData2016/
          annotations_detectron2/{training,validation}/*.png    0-149, 255 unlabelled
          ade20k_panoptic_{train,val}.json, ade20k_panoptic_{train,val}/*.png
          ade20k_instance_{train,val}.json

Without annotations_instance only the semantic files are made.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.preparing.ade20k import plan
from ita.data.preparing.command import main

if __name__ == "__main__":
    sys.exit(main(__doc__, plan))
