"""Image-Text Aggregation for open-vocabulary semantic segmentation (Cheng et al., 2025)."""
