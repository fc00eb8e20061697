"""Submission kit for the Kaggle code competition HuBMAP + HPA - Hacking the Human Body."""

__version__ = "0.3.0"
