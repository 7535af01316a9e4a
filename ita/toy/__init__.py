"""The toy world: drawn scenes of objects named by two words, with some word pairs kept unseen.

``names`` defines the classes and the seen/unseen split, ``drawing`` draws shapes and textures,
``scenes`` composes images, ``dataset`` writes them to disk, ``captions`` pairs views of them with
text. The folder ``clip`` contains a CLIP trained on these words, ``model`` a small ITA trained on
these scenes, and ``datasets.yaml`` describes the data sets in the format of custom ones.
"""
