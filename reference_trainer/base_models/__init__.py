"""What exists only to make a family from nothing: autoencoders, CLIPs, preference models, the extractor, the teacher.

In: a stage's YAML in recipes/mini and seeds. Out: a folder of weights in the layout that stock libraries load.
"""
