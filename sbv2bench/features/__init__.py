"""Images and texts in, features and scores out."""
