"""Networks that look at images and texts, and the cache of what they saw.

In: uint8 images [B, H, W, 3] and captions. Out: float32 features [B, D], embeddings or scores. base has the protocol, a file
each has a network. A newcomer may add a network: a class here or in a plugin, and an entry in catalog/extractors.yaml.
"""
