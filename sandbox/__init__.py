"""What runs inside the container: supervisor, worker, and what the code in a cell can call."""
