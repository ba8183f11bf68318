"""What the product costs, each figure beside that of the plain tool for the same thing. Not part of it."""
