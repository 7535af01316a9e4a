"""PASCAL Context, PC-59 and PC-459: label maps from the .mat files.

reads   VOCdevkit/VOC2010/{JPEGImages/*.jpg,trainval/*.mat,trainval_merged.json}
writes  pascal_ctx_d2/images/{training,validation}/*.jpg      links
        pascal_ctx_d2/annotations_ctx59/{training,validation}/*.png    0-58, 255 unlabelled
        pascal_ctx_d2/annotations_ctx459/{training,validation}/*.tif   0-458, 65535, 16 bits
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ita.data.preparing.command import main
from ita.data.preparing.pascal_context import plan

if __name__ == "__main__":
    sys.exit(main(__doc__, plan))
