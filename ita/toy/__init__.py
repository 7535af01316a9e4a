"""The toy world: drawn scenes of objects named by two words, some pairs of which are unseen.

``names`` lists the classes and which are seen, ``drawing`` draws them, ``scenes`` composes images,
``dataset`` writes them to disk, ``captions`` pairs views of them with text. The folder ``clip``
holds a CLIP that knows their words, ``model`` a small ITA trained on them, and ``datasets.yaml``
describes the data sets the way custom ones are described.
"""
