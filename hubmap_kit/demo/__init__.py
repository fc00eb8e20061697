"""The drawn competition: tissue of five organs, painted under masks, in Kaggle's layout."""
