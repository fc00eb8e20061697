"""Preparation: a competition folder's training images to a patch store."""
