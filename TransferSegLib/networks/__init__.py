"""Networks: the interface that the rest of the library sees, and one folder for each family."""
