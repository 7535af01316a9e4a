"""Metrics of label maps and segments."""
