"""Studies: a question, answered by ordinary runs on the same draws, which share their tokens and images."""
