"""Import of your own images and export of masks: folders of images, masks as PNG, and QuPath's GeoJSON."""
