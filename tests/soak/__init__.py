"""`python -m tests.soak`: runs are killed, stopped, damaged and run out of disk; nothing may be lost."""
