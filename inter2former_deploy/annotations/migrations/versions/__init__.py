"""One module for each step. What was released is not changed any more."""
