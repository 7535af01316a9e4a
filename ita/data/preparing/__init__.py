"""Preparation: from downloaded data sets to the folders that training and evaluation read.

Each data set has a module with a function ``plan``, which describes its outputs, and a docstring
that lists the files read and written. ``jobs`` writes them; the command is
``ita datasets prepare``.
"""
