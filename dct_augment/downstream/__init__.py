"""The low-resource classifier: real and synthetic images mixed, training, saving, predicting."""
