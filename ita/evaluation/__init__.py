"""Metrics: label maps and segments in, numbers out."""
