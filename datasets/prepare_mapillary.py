"""Mapillary Vistas v1.2: puts its folders where they are looked for.

reads   mapillary_vistas/{training,validation}/{panoptic,labels,instances}, in downloads that hold
        several versions below v1.2/
writes  mapillary_vistas/{training,validation}/{panoptic,labels,instances}    links to v1.2/
        mapillary_vistas/{training,validation}/labels/*.png    those that are missing, from the
                                                               panoptic ones: 0-64, 65 unlabelled
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.preparing.command import main
from ita.data.preparing.mapillary import plan

if __name__ == "__main__":
    sys.exit(main(__doc__, plan))
