"""What goes wrong with data, said to people."""


class DataError(Exception):
    """Something is wrong with a file or an image, said in one line for people."""
