"""Pages about runs, data and submissions, and the pictures on them."""
