"""The filter of generated images: which ones a classifier is trained on, and why not the others. It deletes nothing."""

from collections.abc import Mapping

import pandas as pd

from dct_augment.generation.shards import ShardFolder
from dct_augment.images import content


def filter_images(shards: ShardFolder, least_confidence: float) -> pd.DataFrame:
    """Make a row per image of the folder: key, class_name, accepted, reason (empty if accepted).

    An image is accepted if the guide takes it for its class, gives the class `least_confidence` or more, and no earlier
    image has the same pixels.
    """
    rows = shards.rows(["key", "class_name", "status", "guide_right", "guide_confidence", "content"])
    if rows.empty:
        return pd.DataFrame()
    duplicates = _duplicates(rows[rows["status"] == "ok"], shards)
    reasons = [rejection(row, row["key"] in duplicates, least_confidence) for row in rows.to_dict("records")]
    table = rows[["key", "class_name"]]
    return table.assign(accepted=[not reason for reason in reasons], reason=reasons)


def _duplicates(rows: pd.DataFrame, shards: ShardFolder) -> set[str]:
    """The keys of the images that have the pixels of an earlier one; images are opened if a row does not say them."""
    if (rows["content"] != "").all():
        return set(rows.loc[rows["content"].duplicated(), "key"])
    first_keys: dict[str, str] = {}
    return {key for key, _, picture in shards.images() if first_keys.setdefault(content(picture), key) != key}


def rejection(row: Mapping[str, object], is_duplicate: bool, least_confidence: float) -> str:
    """Say why an image is rejected; empty if it is not."""
    if row["status"] != "ok":
        return "not generated"
    if not row["guide_right"]:
        return "taken for another class"
    if not float(str(row["guide_confidence"])) >= least_confidence:
        return f"confidence below {least_confidence:g}"
    return "duplicate" if is_duplicate else ""
