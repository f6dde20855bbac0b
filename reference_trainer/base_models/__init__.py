"""What exists only to make a family from nothing: autoencoders, CLIPs, preference models, the extractor, the teacher."""
