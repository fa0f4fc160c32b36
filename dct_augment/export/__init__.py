"""Carries generated training images to where users want them: folders, tables and tars that other tools read."""

from dct_augment.export.exporting import FORMATS, ExportResult, export_images
from dct_augment.export.hub import check_push, push

__all__ = ["FORMATS", "ExportResult", "check_push", "export_images", "push"]
