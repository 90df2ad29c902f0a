"""English as prompts use it: words, noun phrases, what things are. Rules and tables; for every kind of plugin."""
