"""Image-Text Aggregation for open-vocabulary semantic segmentation (Cheng et al., 2025)."""

import warnings

# Detectron2 and timm script functions when they are imported.
warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
