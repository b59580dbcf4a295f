"""Alpha: what is found of it, what becomes of it, and the planes that are carried to the output."""
