"""Configurations, settings and options that cannot be meant."""

from tests.robustness.case import Case, Files

GOOD = {"name": "name: x", "dataset": "dataset: {name: pocket}", "guide": "guide: {name: pocket/birds-guide}"}
BOMB = "\n".join(
    [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
)


def _file(said: str, **changes: str) -> Case:
    return _raw(said, "\n".join((GOOD | changes).values()) + "\n")


def _raw(said: str, text: str | bytes, **more: str | bytes) -> Case:
    files: Files = {"bad.yaml": text, **{name.replace("_", "."): content for name, content in more.items()}}
    return Case(("data", "--config", "bad.yaml"), said, files)


def _set(said: str, *settings: str) -> Case:
    return Case(("data", *(word for setting in settings for word in ("--set", setting))), said)


FILES = {
    "no guide": _file("guide: missing; add it", guide=""),
    "an empty guide": _file("guide: is empty", guide="guide:"),
    "a list of no guide": _file("guide: must have at least 1 item", guide="guide: []"),
    "a number as guide": _file("guide: must be a section", guide="guide: 3"),
    "a guide without a name": _file("guide", guide="guide: {match: index}"),
    "an unknown key of a guide": _file("unknown key", guide="guide: {name: pocket/birds-guide, mach: index}"),
    "no data set": _file("dataset: missing; add it", dataset=""),
    "an unknown data set": _file(
        "dataset.name: 'pokcet' is unknown (did you mean 'pocket'?)", dataset="dataset: {name: pokcet}"
    ),
    "a data set that is a list": _file("dataset: must be a section", dataset="dataset: [pocket]"),
    "a data set without its path": _file("dataset.path: missing; add it", dataset="dataset: {name: folder}"),
    "a section that is written twice": _file(
        "the key 'dataset' is written twice, at line 4", more="dataset: {name: digits}"
    ),
    "a setting that is written twice": _file(
        "the key 'seed' is written twice, at line 4, column 19", more="tokens: {seed: 1, seed: 2}"
    ),
    "an unknown section": _file("tokns: unknown key (did you mean 'tokens'?)", more="tokns: {seed: 1}"),
    "a section that is text": _file("tokens: must be a section of settings", more="tokens: fast"),
    "a section that is empty": _file("tokens: is empty; give it settings, or delete the line", more="tokens:"),
    "aliases that unfold to billions": _file(
        "name: input should be a valid string", name=f"a: &a [x]\n{BOMB}\nname: *i"
    ),
    "an alias of itself": _file("name: input should be a valid string", name="name: &a [*a]"),
    "an alias of nothing": _file("found undefined alias 'b'", name="name: *b"),
    "a list that is 5,000 deep": _file("nested too deeply", name=f"name: {'[' * 5000}{']' * 5000}"),
    "a section that is 3,000 deep": _file("nested too deeply", name=f"name: {'{a: ' * 3000}1{'}' * 3000}"),
    "an infinite rate": _file("learning_rate: input should be a finite", more="downstream: {learning_rate: .inf}"),
    "a rate that is no number": _file("learning_rate: input should be", more="downstream: {learning_rate: .nan}"),
    "an infinite scale": _file("guidance_scale: input should be a finite", more="sampling: {guidance_scale: .inf}"),
    "more steps than a schedule has": _file(
        "num_inference_steps: input should be less than or equal to 1000, got 1001",
        more="sampling: {num_inference_steps: 1001}",
    ),
    "a seed below 0": _file("tokens.seed: input should be greater than or equal to 0", more="tokens: {seed: -1}"),
    "a seed of 400 digits": _file("tokens.seed: input should be less than", more=f"tokens: {{seed: {'9' * 400}}}"),
    "a seed of 5,000 digits": _file("a number has too many digits", more=f"tokens: {{seed: {'9' * 5000}}}"),
    "a seed that is no whole number": _file("tokens.seed: input should be a valid integer", more="tokens: {seed: 0.5}"),
    "an unknown field in a template": _file(
        "holds {colour}; there are {token}, {class} and {context}",
        more="prompts: {templates: ['a {token} {class} {colour}']}",
    ),
    "an attribute in a template": _file(
        "must hold {token} exactly once", more="prompts: {templates: ['a {token.__class__} {class}']}"
    ),
    "an open brace in a template": _file(
        "must hold {token} exactly once", more="prompts: {templates: ['a {token {class}']}"
    ),
    "a template with two tokens": _file(
        "must hold {token} exactly once", more="prompts: {templates: ['{token} {token} {class}']}"
    ),
    "no template": _file("prompts.templates: must have at least 1 item", more="prompts: {templates: []}"),
    "a template that is a number": _file(
        "prompts.templates.0: input should be a valid string", more="prompts: {templates: [3]}"
    ),
    "contexts without effect": _file(
        "contexts have no effect", more="prompts: {templates: ['{token} {class}'], contexts: ['at sea']}"
    ),
    "no context": _file("contexts is an empty list", more="prompts: {contexts: []}"),
    "a file of contexts that is not there": _file(
        "contexts 'gone.txt' is no file", more="prompts: {contexts: gone.txt}"
    ),
    "a path with a null byte": _file("output: no path holds a null byte", more='output: "a\\0b"'),
    "the home of nobody": _file("output: there is no user '~nobody-here'", more="output: ~nobody-here/x"),
    "a name that leads elsewhere": _file("name: string should match pattern", name="name: ../../x"),
    "an empty name": _file("name: string should match pattern", name="name: ''"),
    "a name that is a number": _file("name: input should be a valid string, got 3", name="name: 3"),
    "a name that is nothing": _file("name: input should be a valid string", name="name:"),
    "a date as key": _file("2020-01-01: unknown key", more="2020-01-01: 3"),
    "a number as key": _file("tokens: the key 3 is no text; correct it", more="tokens: {3: 4}"),
    "nothing as key": _file("the file: the key None is no text; correct it", more="~: 3"),
    "a rate that overflows": _file(
        "tokens.learning_rate: input should be less than or equal to 10000000", more="tokens: {learning_rate: 1e308}"
    ),
    "a rate that is nothing": _file(
        "tokens.learning_rate: input should be greater than", more="tokens: {learning_rate: 1e-320}"
    ),
    "a decay that overflows": _file(
        "weight_decay: input should be less than", more="downstream: {weight_decay: 1e300}"
    ),
    "an empty output": _file("output: an empty text is no path", more="output: ''"),
    "a list as key": _file("unhashable key", more="[1, 2]: 3"),
    "a Python object": _file("could not determine a construc", name="name: !!python/object/apply:os.system ['true']"),
    "bytes that are none": _file("bad.yaml", name="name: !!binary '*'"),
    "a set": _file("tokens", more="tokens: !!set {seed}"),
    "two documents": _file("expected a single document", more="---\nname: y"),
    "a tab": _file("cannot start any token", more="tokens:\n\tseed: 1"),
    "a quote that is not closed": _file("while scanning a quoted scalar", more='output: "x'),
    "a control character": _raw("special characters are not allowed", "name: x\x01\n"),
    "no text": _raw("it is no text in UTF-8, at byte 6", b"name: \xff\xfe\n"),
    "UTF-16": _raw("it is no text in UTF-8, at byte 0", "name: x\n".encode("utf-16")),
    "an empty file": _raw("it is empty; begin with `name:`", ""),
    "a file that is a number": _raw("must be a mapping of sections", "3\n"),
    "a file that is a list": _raw("must be a mapping of sections", "- name: x\n"),
    "a table in place of a configuration": _raw("must be a mapping of sections", "path,label\na.png,cat\n"),
    "0 shots": _file("benchmark.shots: must be a whole number from 1, or 'all'", more="benchmark: {shots: 0}"),
    "half a shot": _file("benchmark.shots: must be a whole number", more="benchmark: {shots: 2.5}"),
    "true as shots": _file("benchmark.shots: must be a whole number", more="benchmark: {shots: true}"),
    "infinite shots": _file("benchmark.shots", more="benchmark: {shots: .inf}"),
    "shots that are no number": _file("benchmark.shots: must be a whole number", more="benchmark: {shots: .nan}"),
    "a list of shots": _file("benchmark.shots: must be a whole number", more="benchmark: {shots: [5]}"),
    "an unknown arm": _file("benchmark.arms.0: input should be", more="benchmark: {arms: [reel]}"),
    "no arm": _file("benchmark.arms: must have at least 1 item", more="benchmark: {arms: []}"),
    "one draw": _file("benchmark.seeds: input should be greater than or equal to 2", more="benchmark: {seeds: 1}"),
    "candidates without effect": _file("candidates have no effect", more="benchmark: {candidates: 9}"),
    "a share above 1": _file("synthetic_probability: must be a share", more="downstream: {synthetic_probability: 1.5}"),
    "shares by no shots": _file("the mapping is empty", more="downstream: {synthetic_probability: {}}"),
    "a share of 0 shots": _file("0 is no number of shots", more="downstream: {synthetic_probability: {0: 0.5}}"),
    "a model that is named twice": _file("name x twice", more="downstream: {model: [x, x]}"),
    "no model": _file("model must name a model", more="downstream: {model: []}"),
    "a probe without weights": _file(
        "real+linear_probe trains one layer", more="benchmark: {arms: ['real+linear_probe']}"
    ),
    "strengths without effect": _file("strengths have no effect", more="generation: {strengths: [0.5]}"),
    "a strength of 1": _file(
        "generation.strengths.0: input should be less than 1", more="generation: {start: same_class, strengths: [1]}"
    ),
    "workers of a thread": _file("workers and address are for kind: dask or ray", more="runner: {workers: 2}"),
    "an unknown gradient method": _file("tokens.method", more="tokens: {method: guess}"),
    "a setting of version 0.1": _file("tokens.last_k: is called tokens.method.steps now", more="tokens: {last_k: 3}"),
    "an unknown precision": _file("model.dtype: input should be", more="model: {dtype: float8}"),
    "0 val images": _file(
        "dataset.val_images: input should be greater than or equal to 1",
        dataset="dataset: {name: folder, path: x, val_images: 0}",
    ),
    "a colour that is none": _file(
        "'greeen' is no colour", dataset="dataset: {name: folder, path: x, background: greeen}"
    ),
    "a value range without extent": _file(
        "has no extent; give black first", dataset="dataset: {name: folder, path: x, value_range: [5, 5]}"
    ),
    "a value range of three": _file(
        "must be full, 12bit, min_max, or a pair", dataset="dataset: {name: folder, path: x, value_range: [1, 2, 3]}"
    ),
    "words that are a number": _file(
        "must be a file, or `class: words`", dataset="dataset: {name: folder, path: x, words: 3}"
    ),
    "words of a class that are a list": _file(
        "the words of class 'a' must be text", dataset="dataset: {name: folder, path: x, words: {a: [b]}}"
    ),
    "a setting of another data set": _file(
        "dataset.crop: unknown key", dataset="dataset: {name: folder, path: x, crop: true}"
    ),
}

SETTINGS = {
    "no equals sign": _set("--set 'nonsense' is not of the form section.key=value", "nonsense"),
    "no name": _set("is not of the form section.key=value", "=3"),
    "a setting with a misspelt key": _set(
        "--set tokens.max_update: unknown key (did you mean 'max_updates'?)", "tokens.max_update=3"
    ),
    "a setting below a number": _set("a part before the last dot is no section", "device=cpu", "device.name=x"),
    "a setting that is no YAML": _set("'[1' is not a valid YAML value", "tokens.seed=[1"),
    "a flow value with a key twice": _set(
        "the key 'seed' is written twice, at line 1, column 11", "tokens={seed: 1, seed: 2}"
    ),
    "a setting that is 2,000 deep": _set("nested too deeply", f"tokens.seed={'[' * 2000}{']' * 2000}"),
    "a setting of 400 digits": _set("tokens.seed: input should be less than", f"tokens.seed={'9' * 400}"),
    "a setting of 5,000 digits": _set("tokens.seed=", f"tokens.seed={'9' * 5000}"),
    "an infinite setting": _set(
        "--set downstream.learning_rate: input should be a finite", "downstream.learning_rate=.inf"
    ),
    "true for a number": _set("learning_rate: input should be a valid number", "downstream.learning_rate=true"),
    "yes for a whole number": _set("max_updates: input should be a valid integer", "tokens.max_updates=yes"),
    "on in a list of numbers": _set("strengths.1: input should be a valid number", "generation.strengths=[0.3, on]"),
    "draws without end": _set("benchmark.seeds: input should be less than", f"benchmark.seeds={'9' * 20}"),
    "pictures without end": _set("input should be less than or equal to 8192", "downstream.image_size=100000"),
    "a negative setting": _set("--set tokens.seed: input should be greater", "tokens.seed=-1"),
    "a setting with a null byte": _set("--set output: no path holds a null byte", 'output="a\\0b"'),
    "a setting that is empty": _set("--set guide: is empty", "guide="),
    "an unknown guide by --set": _set("--set guide", "guide=3"),
    "a date that is none as setting": _set("is not a valid YAML value", "output=!!timestamp 2020-99-01"),
    "a tag as setting": _set("could not determine a constructor", "output=!!python/name:os.system"),
    "an alias as setting": _set("is not a valid YAML value", "output=*a"),
    "a section with dots in a row": _set("--set", "tokens..seed=3"),
    "half a letter as setting": _set("x", "name=\udcff"),
}

_PICTURE = ("picture.png",)
_LOOPS = "a link of this path leads to itself"
_LOOP: Files = {"loop": lambda path: path.symlink_to("loop")}
OPTIONS = {
    "a configuration that is not there": Case(("data", "--config", "gone.yaml"), "gone.yaml: 1 problem - no such file"),
    "a misspelt configuration": Case(("data", "--config", "pockt"), "no such configuration (did you mean 'pocket'?)"),
    "a configuration that is a folder": Case(("data", "--config", "a.yaml"), "a.yaml", {"a.yaml/": ""}),
    "a configuration with a null byte": Case(("data", "--config", "a\0b.yaml"), "no such file"),
    "a configuration whose name is no text": Case(("data", "--config", "\udcff.yaml"), "no such file"),
    "a configuration with a name of 5,000 letters": Case(
        ("data", "--config", "a" * 5000 + ".yaml"), "File name too long; give a shorter path"
    ),
    "a folder of photos that leads to itself": Case(("init", "loop"), _LOOPS, _LOOP),
    "an export that leads to itself": Case(("export", "loop", "--to", "q"), _LOOPS, _LOOP),
    "an empty path": Case(("data", "--output", ""), "--output is given as '', an empty text"),
    "an empty path after =": Case(("data", "--output="), "--output= is given as '', an empty text"),
    "an empty picture": Case(("predict", "runs/x", ""), "an argument is given as '', an empty text"),
    "a CSV that is a configuration": Case(
        ("predict", "x", "a.png", "--csv", "run.yaml"), "is there and is no .csv", {"run.yaml": "name: x", "a.png": "x"}
    ),
    "no class": Case(("data", "--classes", ""), "--classes is given as '', an empty text"),
    "commas alone as classes": Case(("data", "--classes", " ,"), "--classes ' ,' names no class"),
    "an unknown class": Case(("data", "--classes", "crane,kiwwi"), "classes 'kiwwi' (did you mean 'kiwi'?) are not in"),
    "a class of markup": Case(("data", "--classes", "[/red] gull"), "'[/red] gull'"),
    "a run folder that is a file": Case(
        ("report", "--output", "file"),
        "'file': File exists; it is in the way of a folder; move it away",
        {"file": "mine"},
    ),
    "a run folder below a file": Case(
        ("report", "--output", "file/x"), "a folder of this path is a file", {"file": "mine"}
    ),
    "a run folder with a null byte": Case(("data", "--output", "a\0b"), "--output"),
    "a run folder with a name of 300 letters": Case(
        ("report", "--output", "a" * 300), "File name too long; give a shorter path"
    ),
    "no images": Case(
        ("generate", "--per-class", "0"), "generation.per_class: input should be greater than or equal to 1"
    ),
    "images that are no number": Case(("generate", "--per-class", "many"), "'--per-class'"),
    "a price that is none": Case(("train", "--dry-run", "--price", "inf"), "--price inf is no price"),
    "a price without a plan": Case(("train", "--price", "2"), "add --dry-run"),
    "an unknown command": Case(("trian",), "No such command 'trian'"),
    "an unknown option": Case(("train", "--clases", "x"), "No such option: --clases"),
    "a run that is not there": Case(("verify", "--output", "gone"), "gone does not exist; make it with"),
    "a run to export that is not there": Case(("export", "gone", "--to", "out"), "gone does not exist"),
    "an unknown format": Case(
        ("export", "--to", "out", "--format", "tar"), "'tar' is unknown; choose one of: imagefolder"
    ),
    "a confidence above 1": Case(("export", "--to", "out", "--filter", "2"), "--filter 2 is no confidence"),
    "a confidence that is no number": Case(
        ("export", "--to", "out", "--filter", "nan"), "--filter nan is no confidence"
    ),
    "shared names that are unknown": Case(("export", "--to", "out", "--shared-names", "mix"), "'mix' is unknown"),
    "an export into a file": Case(("export", "--to", "file"), "is a file; give a folder", {"file": "mine"}),
    "an export over other files": Case(
        ("export", "--to", "out"), "is not empty, and it is no export", {"out/mine": "x"}
    ),
    "no pictures": Case(("predict", "pocket/birds-guide", "gone.png"), "'gone.png' does not exist"),
    "a pattern that fits nothing": Case(
        ("predict", "pocket/birds-guide", "*.png"), "no picture fits the pattern '*.png'"
    ),
    "a folder without pictures": Case(
        ("predict", "pocket/birds-guide", "empty"), "no picture in 'empty'", {"empty/": ""}
    ),
    "no class at the top": Case(("predict", "pocket/birds-guide", "x.png", "--top", "0"), "--top 0 must be 1 or more"),
    "a threshold above 1": Case(
        ("predict", "pocket/birds-guide", "x.png", "--threshold", "1.5"), "--threshold 1.5 must lie in 0 .. 1"
    ),
    "a threshold that is no number": Case(
        ("predict", "pocket/birds-guide", "x.png", "--threshold", "nan"), "--threshold nan must lie"
    ),
    "a batch of no pictures": Case(
        ("predict", "pocket/birds-guide", "x.png", "--batch-size", "0"), "--batch-size 0 must be 1 or more"
    ),
    "a table into a folder": Case(
        ("predict", "pocket/birds-guide", "x.png", "--csv", "out"), "--csv 'out' is a folder", {"x.png": "", "out/": ""}
    ),
    "a classifier that is not there": Case(
        ("predict", "gone", "x.png"), "'gone' is no folder; give a run folder", {"x.png": ""}
    ),
    "an unknown study": Case(("study", "gian"), "gian: 1 problem - no such study"),
    "a study that is no YAML": Case(("study", "s.yaml"), "s.yaml: 1 problem", {"s.yaml": "question: [\n"}),
    "a study that is a list": Case(("study", "s.yaml"), "s.yaml: 1 problem", {"s.yaml": "[1]\n"}),
    "a study that is no text": Case(("study", "s.yaml"), "it is no text in UTF-8", {"s.yaml": b"\xff\xfe"}),
    "a study of too many draws": Case(("study", "gain", "--draws", "9999"), "--draws 9999: the study has"),
    "a study of other shots": Case(("study", "gain", "--shots", "five"), "--shots 'five': give whole numbers"),
    "a study of an unknown row": Case(("study", "gain", "--rows", "reel"), "--rows: the study has no reel"),
    "a study into a file": Case(
        ("study", "depth", "--dry-run", "-o", "file"),
        "'file': File exists; it is in the way of a folder",
        {"file": "mine"},
    ),
    "a study below a file": Case(
        ("study", "gain", "--dry-run", "-o", "file/x"), "'file': Not a directory", {"file": "mine"}
    ),
    "a configuration path that is a folder": Case(
        ("train", "--config", "c.yaml"), "it is no file that can be read", {"c.yaml/x": ""}
    ),
    "a plan into a file": Case(
        ("train", "--dry-run", "-o", "file"), "'file': File exists; it is in the way of a folder", {"file": "mine"}
    ),
    "verify of a file": Case(("verify", "-o", "file"), "file is a file; give the folder of a run", {"file": "mine"}),
    "verify of another folder": Case(
        ("verify", "-o", "mine"), "mine is no run folder: it has no config.yaml", {"mine/notes.txt": "mine"}
    ),
    "photos that are not there": Case(("init", "gone"), "gone"),
    "a configuration that would be replaced": Case(
        ("init", "photos", "--to", "x.yaml"), "x.yaml", {"photos/a/x.png": "", "x.yaml": "mine"}
    ),
}
