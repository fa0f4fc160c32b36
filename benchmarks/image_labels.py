"""How many images of a study's draws are of their class, as the judge sees them; it has had no part in making them.

    python -m benchmarks.image_labels STUDY_FOLDER/tuning/arms/birds/class_token_few_shot_guide-*

Takes folders of arms, with one folder for each draw in them. A class is called lost if the judge recognises fewer than
one in ten of its images.
"""

import argparse
from pathlib import Path

import pandas as pd

LOST = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    print("| arm, draw | images | guide accepts, % | judge recognises, % | of those the guide accepts, % | lost |")
    print("| --- | --- | --- | --- | --- | --- |")
    for folder in parser.parse_args().folders:
        for draw in sorted(folder.iterdir()):
            tables = [pd.read_parquet(path) for path in sorted(draw.glob("shards/*.parquet"))]
            if not tables:
                continue
            rows = pd.concat(tables)
            rows = rows[rows["status"] == "ok"]
            guide, judge = rows["guide_right"].astype(bool), rows["judge_right"].astype(bool)
            by_class = judge.groupby(rows["class_name"]).mean()
            shares = [guide.mean(), judge.mean(), judge[guide].mean()]
            cells = [f"{folder.parent.name}, {draw.name}", str(len(rows)), *(f"{100 * share:.0f}" for share in shares)]
            print(f"| {' | '.join([*cells, ', '.join(by_class.index[by_class < LOST]) or '-'])} |")


if __name__ == "__main__":
    main()
