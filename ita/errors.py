"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Something outside the code is wrong: a file, a config key, a class list.

    The message is one line that says what is wrong, where, and what to do. ``train_net.py`` and
    the tools print it without a traceback and exit with a non-zero code.
    """
