"""One's own images in, and masks out: folders of images, masks as PNG, and QuPath's GeoJSON."""
