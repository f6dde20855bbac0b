"""What goes in: prompts, references, images, and the files of models."""
