"""The honest benchmark: arms, trials, the pool of processes, comparisons of arms."""
