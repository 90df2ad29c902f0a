"""Recipes that rebuild every checkpoint of the embedded world: ``python -m realignkit_plugins.micro.train MODEL``."""
