"""The Kaggle side: what is uploaded, pushed and submitted, and where a kernel finds it."""
