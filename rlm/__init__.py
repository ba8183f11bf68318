"""Ask anything of any amount of data: a Recursive Language Model in a locked-down Docker sandbox."""

__version__ = "0.1.0"
