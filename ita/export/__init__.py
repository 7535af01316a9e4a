"""Export of trained models to graphs that run without this package."""
