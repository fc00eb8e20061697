"""The ablation: what each part of a recipe brings, measured on a validation fold."""
