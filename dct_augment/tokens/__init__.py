"""Class tokens: one learned embedding vector per class, from gradient to file."""
