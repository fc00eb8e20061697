"""Names of the datasets and kernels on Kaggle, each below its owner's name, and of their environment variable."""

KIT, WEIGHTS = "hubmap-kit", "hubmap-weights"  # datasets
TRAIN, INFER, NOTEBOOK = "hubmap-train", "hubmap-infer", "hubmap-results"  # kernels
CHANGES = "HUBMAP_SETTINGS"  # environment variable of a kernel: a JSON object of setting to value
