"""The results as a page, as plots and as the tables of the README."""
