"""The real commands on fake data of full size, within limits of memory and time: `python -m benchmarks.rehearse`."""
