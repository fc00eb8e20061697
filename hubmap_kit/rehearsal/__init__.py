"""The rehearsal: a whole competition on this machine, with the kernels that Kaggle will run."""
