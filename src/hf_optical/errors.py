class DataError(ValueError):
    """
    The input is not what it should be: a file that is missing, broken or empty, or rows that contradict each other.

    The message names the file, with the line where there is one, or the argument, and says what to do about it.
    """
