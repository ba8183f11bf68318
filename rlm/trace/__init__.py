"""What was recorded of a turn, in other forms: a page for a browser, and a Python script of its cells."""
