"""Many pictures: encoded, segmented or scored by one process or by workers of Ray, with the same files as result."""
