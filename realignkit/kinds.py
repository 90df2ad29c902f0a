"""The kinds of plugin, by name; :mod:`realignkit.contracts` has the contract of each. Imports nothing."""

KINDS = ("generator", "reward", "tagger", "scorer", "segmenter", "metric", "prompts")
"""Each has a registering hook ``register_<kind>s`` (``register_prompts``)."""
