"""The Kaggle side: bundle, paths, and the rehearsal."""
