"""A page on which people segment their own images into classes given as words.

``server.py`` serves it, ``page.py`` has its components; all other modules know no web framework.
"""
