"""HTTP: thin routes over the credit pipeline."""
