"""Labelled images from class tokens: plan, generator, shards, filter."""
