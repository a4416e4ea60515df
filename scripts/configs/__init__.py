"""What the files under recipes/configs are made of: pretrained models, rows of values, and the text around them."""
