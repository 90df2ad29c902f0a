"""Pipelines of diffusers: their families, what they read, their images, and drawing with them as they are."""
