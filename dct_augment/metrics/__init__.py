"""What generated images are worth: recognised by guide and judge, and compared with real ones."""
