"""What goes in: captions, reference images, image folders, and the files of models.

In: locations as declared or typed (hub:, package:, home:, asset:, paths). Out: captions, uint8 images, and files that are
present, whole and hashed, before anything is computed; no torch here. A newcomer may add a form of caption file
(caption_files) or of archive (archive, members).
"""
