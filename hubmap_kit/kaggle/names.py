"""Names of the datasets and kernels on Kaggle, each below its owner's name."""

KIT, WEIGHTS = "hubmap-kit", "hubmap-weights"  # datasets
TRAIN, INFER = "hubmap-train", "hubmap-infer"  # kernels
