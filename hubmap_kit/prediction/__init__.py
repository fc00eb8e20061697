"""Prediction: a competition folder's images to a submission, with one run or an ensemble."""
