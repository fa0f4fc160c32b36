"""The filter of generated images: which ones a classifier is trained on, and why not the others. It deletes nothing."""

import pandas as pd

from dct_augment.generation.shards import TRAIN, ShardFolder
from dct_augment.images import content


def filter_images(shards: ShardFolder, least_confidence: float) -> pd.DataFrame:
    """A row per class-token image: key, class_name, accepted, reason (empty if accepted).

    An image is kept if the guide takes it for its class, gives the class `least_confidence` or more, and no earlier
    image has the same pixels.
    """
    rows = shards.rows(TRAIN)
    if rows.empty:
        return pd.DataFrame()
    seen: dict[str, str] = {}
    twins = {key for key, _, picture in shards.images(TRAIN) if seen.setdefault(content(picture), key) != key}
    reasons = []
    for row in rows.to_dict("records"):
        reasons.append(_reason(row, row["key"] in twins, least_confidence))
    table = rows[["key", "class_name"]]
    return table.assign(accepted=[not reason for reason in reasons], reason=reasons)


def _reason(row: dict[str, object], twin: bool, least_confidence: float) -> str:
    if row["status"] != "ok":
        return "not drawn"
    if not row["guide_right"]:
        return "taken for another class"
    if not float(str(row["guide_confidence"])) >= least_confidence:
        return f"confidence below {least_confidence:g}"
    return "duplicate" if twin else ""
