"""Cityscapes: semantic and panoptic files, as cityscapesscripts makes them, and instances.

reads   cityscapes/leftImg8bit/{train,val}/*/*_leftImg8bit.png
        cityscapes/gtFine/{train,val}/*/*_gtFine_{labelIds,instanceIds}.png
writes  cityscapes/gtFine/{train,val}/*/*_gtFine_labelTrainIds.png    0-18, 255 unlabelled
        cityscapes/gtFine/cityscapes_panoptic_{train,val}.json
        cityscapes/gtFine/cityscapes_panoptic_{train,val}/*_gtFine_panoptic.png
        cityscapes/gtFine/cityscapes_instance_{train,val}.json
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.preparing.cityscapes import plan
from ita.data.preparing.command import main

if __name__ == "__main__":
    sys.exit(main(__doc__, plan))
