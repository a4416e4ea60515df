"""What code and commands written for ``llama_recipes`` find under its names, made of this project's parts."""
