"""Recipes: the settings of a task, each with the search that chose them."""
