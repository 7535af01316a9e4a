"""Preparing: from what people download to the folders that training and evaluation read.

A module per data set says what is to be made (``plan``); ``jobs`` makes it. The command lines are
``datasets/prepare_*.py``.
"""
