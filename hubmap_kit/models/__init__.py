"""Networks, their encoders and their losses. TensorFlow is loaded when one is used, not when the names are listed."""
